/// <reference lib="deno.unstable" />
/** Rules of this project for `deno lint`: what stands only in some rooms of lib/, and how long a test is. */

import { join, relative } from "node:path";

const CHECKOUT = join(import.meta.dirname!, "..", "..");
/** Lines of a file of tests; a longer one is split by subject. */
const MAX_TEST_LINES = 500;

const SQL = /\b(SELECT|INSERT INTO|UPDATE .* SET|DELETE FROM)\b/s;
/** The one room of the targets, and the original's algorithm and queries in notebooks. */
const SQL_ROOMS = ["targets/", "notebook/"];
/** What a person starts in a terminal. */
const CONSOLE_ROOMS = ["cli/", "dev/", "pipeline.ts"];

/** A file's path in the checkout, with slashes. */
function pathOf(filename: string): string {
  return relative(CHECKOUT, filename).replaceAll("\\", "/");
}

/** Whether a file lies in lib/, outside all of these rooms. */
function isOutside(rooms: readonly string[], filename: string): boolean {
  const path = pathOf(filename);
  return path.startsWith("lib/") && !rooms.some((room) => path.startsWith(`lib/${room}`));
}

const plugin: Deno.lint.Plugin = {
  name: "writebehind",
  rules: {
    "sql-in-targets": {
      create(context) {
        if (!isOutside(SQL_ROOMS, context.filename)) return {};
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
    "short-tests": {
      create(context) {
        if (!/^tests\/.*_test\.ts$/.test(pathOf(context.filename))) return {};
        return {
          Program: (node) => {
            const lines = context.sourceCode.text.split("\n").length - 1;
            if (lines <= MAX_TEST_LINES) return;
            context.report({
              range: [node.range[0], node.range[0]],
              message: `${lines} lines of tests, at most ${MAX_TEST_LINES} are allowed`,
              hint: "Split it by subject.",
            });
          },
        };
      },
    },
    "console-in-commands": {
      create(context) {
        if (!isOutside(CONSOLE_ROOMS, context.filename)) return {};
        return {
          'MemberExpression[object.name="console"], MemberExpression[object.name="Deno"][property.name=/^std(out|err)$/]':
            (node: Deno.lint.Node) =>
              context.report({
                node,
                message: "the library writes to the console",
                hint: "Tell it by an event or the log; only commands print.",
              }),
        };
      },
    },
    "no-clock-in-deadlines": {
      create(context) {
        if (!isOutside([], context.filename)) return {};
        const lines = context.sourceCode.text.split("\n");
        return {
          'BinaryExpression[operator=/^([+-]|[<>]=?)$/] > CallExpression[callee.object.name="Date"][callee.property.name="now"]':
            (node: Deno.lint.Node) => {
              const line = context.sourceCode.text.slice(0, node.range[0]).split("\n").length - 1;
              if (lines.slice(Math.max(0, line - 1), line + 1).some((text) => /\/\//.test(text))) {
                return;
              }
              context.report({
                node,
                message: "the clock is used for a time that passes, and it may be set",
                hint:
                  "Use performance.now(), or say in a comment which other clock it is compared with.",
              });
            },
        };
      },
    },
    "no-error-swallowed": {
      create(context) {
        if (!isOutside([], context.filename)) return {};
        const lines = context.sourceCode.text.split("\n");
        const check = (node: Deno.lint.Node) => {
          const lineOf = (at: number) =>
            context.sourceCode.text.slice(0, at).split("\n").length - 1;
          const around = lines.slice(
            Math.max(0, lineOf(node.range[0]) - 1),
            lineOf(node.range[1]) + 1,
          );
          if (around.some((line) => /\/\/|^\s*(\/\*)?\*/.test(line))) return;
          context.report({
            node,
            message: "an error is dropped, and no comment says why that is right",
            hint: "Throw it, tell it by an event with its cause, or say in a comment who has it.",
          });
        };
        return {
          CatchClause: (node) => {
            if (node.param === null) check(node);
          },
          'CallExpression[callee.property.name="catch"] > ArrowFunctionExpression[params.length=0]':
            check,
          'MemberExpression[object.name="Promise"][property.name="allSettled"]': check,
        };
      },
    },
  },
};

export default plugin;
