/**
 * Reads YAML so that every problem can be reported with its line.
 * @module
 */

import {
  type Document,
  type ErrorCode,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  visit,
} from "yaml";

/** A place in the file: keys and indexes. */
export type Path = readonly PropertyKey[];

/** Something that is wrong with the file. */
export interface Problem {
  /** 1-based; 0 where the problem is in no file */
  readonly line: number;
  readonly text: string;
}

/** Our own messages, since the parser's quote the file, and passwords with it. */
const YAML_PROBLEMS: Partial<Record<ErrorCode, string>> = {
  BAD_DQ_ESCAPE: "unknown escape (\\) within double quotes; use single quotes",
  BAD_INDENT: "the indentation does not fit the lines above",
  BAD_SCALAR_START: "text that starts with this character must be in quotes",
  BLOCK_AS_IMPLICIT_KEY: "a key within a value; put text with a colon in quotes",
  MULTIPLE_DOCS: "a second document (---) begins here; keep one",
  RESOURCE_EXHAUSTION: "nested too deeply",
  TAB_AS_INDENT: "indented by a tab; use spaces",
  TAG_RESOLVE_FAILED: "unknown tag; put text that starts with ! in quotes",
};
const YAML_PROBLEM = "cannot be understood here; is a colon, quote, bracket or space missing?";
const ALIAS_PROBLEM = "an alias without an anchor above it; put text that starts with * in quotes";
const ALIAS_FLOOD = "aliases that unfold to too much";

/** A YAML text, read. */
export interface Yaml {
  readonly value: unknown;
  readonly syntax: Problem[];
  readonly repeated: Problem[];
  /** The line of the key, or of the nearest one around it that the file has. */
  readonly lineOf: (path: Path) => number;
}

/** Reads YAML, and notes its problems and the lines of its keys. */
export function readYaml(text: string): Yaml {
  const counter = new LineCounter();
  const lineAt = (offset = 0) => counter.linePos(offset).line || 1;
  const syntax: Problem[] = [];
  const complain = (offset: number | undefined, text: string) =>
    void syntax.push({ line: lineAt(offset), text: `YAML: ${text}` });
  const repeated: Problem[] = [];
  const lines = new Map<string, number>();
  const lineOf = (path: Path): number =>
    lines.get(formatPath(path)) ?? (path.length === 0 ? 1 : lineOf(path.slice(0, -1)));

  const document = parseDocument(text, {
    lineCounter: counter,
    prettyErrors: false,
    stringKeys: true,
    uniqueKeys: false, // checked below, with the path
  });
  for (const { code, pos } of [...document.errors, ...document.warnings]) {
    const open = openQuote(document, pos[0]);
    if (open !== undefined) complain(open, "a quote that opens here is not closed");
    else complain(pos[0], YAML_PROBLEMS[code] ?? YAML_PROBLEM);
  }
  const walk = (node: unknown, path: Path) => {
    if (isSeq(node)) {
      for (const [index, item] of node.items.entries()) {
        const at = [...path, index];
        lines.set(formatPath(at), isNode(item) ? lineAt(item.range?.[0]) : lineOf(path));
        walk(item, at);
      }
    }
    if (!isMap(node)) return;
    node.items = node.items.filter(({ key }) => isScalar(key)); // others have been reported
    for (const { key, value } of node.items) {
      if (!isScalar(key)) continue;
      const at = [...path, String(key.value)];
      const line = lineAt(key.range?.[0]);
      const first = lines.get(formatPath(at));
      if (first !== undefined) {
        const text = `${formatPath(at)}: stands already in line ${first}; keep one`;
        repeated.push({ line, text });
      }
      lines.set(formatPath(at), line);
      walk(value, at);
    }
  };
  walk(document.contents, []);

  let alias: number | undefined;
  visit(document, {
    Alias(_, node) {
      alias ??= node.range?.[0];
      if (node.resolve(document) === undefined) complain(node.range?.[0], ALIAS_PROBLEM);
    },
  });
  let value: unknown;
  try {
    value = document.toJS();
  } catch (error) {
    if (!(error instanceof ReferenceError)) throw error;
    if (syntax.length === 0) complain(alias, ALIAS_FLOOD);
  }
  return { value, syntax, repeated, lineOf };
}

/** Where a quote opens that is never closed: the parser reports only the end of the text. */
function openQuote(document: Document, end: number): number | undefined {
  let start: number | undefined;
  visit(document, {
    Scalar(_, { type, range }) {
      if (type?.startsWith("QUOTE") && range?.[1] === end && range[0] < end) start = range[0];
    },
  });
  return start;
}

/** Cuts keys at the first character that no key of ours has, since `password:secret` is one key. */
export function formatPath(path: Path): string {
  return path.reduce<string>((text, part) => {
    if (typeof part === "number") return `${text}[${part}]`;
    const key = String(part).replace(/[^\w.-].*$/s, "…");
    return text === "" ? key : `${text}.${key}`;
  }, "");
}
