/// <reference lib="deno.unstable" />
/** Rules of this project for `deno lint`: SQL stands only where the house wants it. */

import { join, relative } from "node:path";

const LIB = join(import.meta.dirname!, "..", "..", "lib");

const SQL = /\b(SELECT|INSERT INTO|UPDATE .* SET|DELETE FROM)\b/s;
/** The one room of the targets, and the original's algorithm and queries in notebooks. */
const ALLOWED = ["targets/", "notebook/"];

const plugin: Deno.lint.Plugin = {
  name: "writebehind",
  rules: {
    "sql-in-targets": {
      create(context) {
        const path = relative(LIB, context.filename).replaceAll("\\", "/");
        if (path.startsWith("..") || ALLOWED.some((room) => path.startsWith(room))) return {};
        const check = (node: Deno.lint.Node, text: string) => {
          // A word alone is no statement: `SELECT` is a command of Redis too.
          if (!text.includes(" ") || !SQL.test(text)) return;
          context.report({
            node,
            message: "SQL outside lib/targets",
            hint:
              "Add what it asks to the port in lib/targets/target.ts, and the SQL to each target.",
          });
        };
        return {
          Literal: (node) => check(node, String(node.value)),
          TemplateLiteral: (node) => check(node, node.quasis.map(({ cooked }) => cooked).join("…")),
        };
      },
    },
  },
};

export default plugin;
