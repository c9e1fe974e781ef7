/** The whole way into a SQLite file. */

import { pipelines } from "../conformance/pipeline.ts";
import { filePipeline } from "../pipelines.ts";

pipelines("SQLite", filePipeline);
