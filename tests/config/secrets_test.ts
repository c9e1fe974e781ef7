import assert from "node:assert/strict";
import { format } from "node:util";
import { configWith, parseConfig } from "writebehind";
import { ORIGINAL, problems } from "./texts.ts";

Deno.test("config: a password shows in no message", () => {
  const secret = "hunter2";
  for (
    const text of [
      `redis: ${secret}`,
      `redis: { passwrod: ${secret} }`,
      `redis: { host: x, password:${secret} }`,
      `redis: { host: "redis://u:${secret}@h" }`,
      `password: ${secret}`,
      ...[
        `[${secret}]`,
        `{ ${secret}: 1 }`,
        `*${secret}`,
        `!${secret} a`,
        `|${secret}`,
        `"a" ${secret}`,
        `@${secret}`,
        `a: ${secret}`,
        `'${secret}`,
        `"\\q${secret}`,
        `\n  ${secret}`,
        `x\n  password:${secret}`,
        `x\n  ? [${secret}]\n  : 1`,
      ].map((value) => `redis:\n  password: ${value}\n`),
    ]
  ) {
    const message = problems(text).join("\n");
    assert(!message.includes(secret), message);
  }
  for (const value of ["12345", "true", "0x12345", "1e5"]) {
    assert.match(
      problems(`redis:\n  sentinel_password: ${value}`).join("\n"),
      /^f:2: redis\.sentinel_password: expected text or null, got a (number|boolean); quote it$/,
    );
    assert.match(
      problems(`redis:\n  password: ${value}`).join("\n"),
      /^f:2: redis\.password: expected text or null, got a (number|boolean); quote it$/,
    );
  }
});

Deno.test("config: a password shows in no display", () => {
  const config = parseConfig(
    "redis: { password: hunter2, sentinel_password: hunter2 }\npostgresql: { password: hunter2 }",
    "f",
  );
  assert.equal(config.redis.password, "hunter2");
  assert.equal(config.redis.sentinel_password, "hunter2");
  assert.equal(config.postgresql.password, "hunter2");
  for (const value of [config, config.redis, config.postgresql, [config.redis], { config }]) {
    for (
      const shown of [
        Deno.inspect(value),
        Deno.inspect(value, { showHidden: true, depth: 9, colors: true }),
        JSON.stringify(value),
        String(value),
        format("%o %O %j %s", value, value, value, value),
      ]
    ) assert(!shown.includes("hunter2"), shown);
  }
  for (const copy of [{ ...config.redis }, structuredClone(config), Object.entries(config.redis)]) {
    assert(!Deno.inspect(copy, { depth: 9, showHidden: true }).includes("hunter2"));
  }
  assert.match(Deno.inspect(config.redis), /password: "\[redacted\]"/);
  assert.match(Deno.inspect(config.redis), /sentinel_password: "\[redacted\]"/);
  assert.equal(JSON.parse(JSON.stringify(config)).redis.password, "[redacted]");
  assert.match(Deno.inspect(parseConfig("", "f").redis), /password: null/);
});

Deno.test("config: frozen at every level", () => {
  const frozen = (value: unknown): boolean =>
    Object(value) !== value ||
    (Object.isFrozen(value) && Object.values(Object(value)).every(frozen));
  assert(frozen(parseConfig(ORIGINAL, "f")));
  assert(frozen(configWith(parseConfig("", "f"), { redis: { port: 1 } })));
});
