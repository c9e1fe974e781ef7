/**
 * Reading the tokens of a JSON text one by one, in linear time whatever its tokens' length.
 * @module
 */

import { SHOWN_STEPS, type Step } from "./invalid.ts";

/** What a token is, by its first character; all numbers are `NUMBER`, and `true`, `false` and `null` are `WORD`. */
export const [END, WORD, NUMBER, STRING, COMMA, COLON, OBJECT, OBJECT_END, ARRAY, ARRAY_END] = [
  0,
  1,
  2,
  0x22,
  0x2c,
  0x3a,
  0x7b,
  0x7d,
  0x5b,
  0x5d,
] as const;

const BACKSLASH = 0x5c;

/**
 * Walks over a JSON text, and knows where in the document it is. It checks nothing: of a text that is not JSON it
 * finds tokens that are none either.
 */
export class JsonReader {
  /** where the token begins, and where it ends */
  start = 0;
  end = 0;
  /** whether the token, a string, is a key; whether it has escapes */
  isKey = false;
  escaped = false;
  readonly text: string;
  #keyNext = false;
  /** of each open container: the index of its item (-1 for an object), and where its last key is */
  #indexes: number[] = [];
  #keys: [start: number, end: number][] = [];

  constructor(text: string) {
    this.text = text;
  }

  /** How many containers are open. */
  get depth(): number {
    return this.#indexes.length;
  }

  /** The token, as it stands in the text. */
  get token(): string {
    return this.text.slice(this.start, this.end);
  }

  /** Goes on to the next token, and says what it is. */
  next(): number {
    const { text } = this;
    let at = this.end;
    let code = text.charCodeAt(at);
    while (code === 0x20 || code === 0x0a || code === 0x0d || code === 0x09) {
      code = text.charCodeAt(++at);
    }
    this.start = at;
    switch (code) {
      case STRING:
        this.#string(at);
        return STRING;
      case OBJECT:
      case ARRAY:
        this.#indexes.push(code === ARRAY ? 0 : -1);
        this.#keys.push([0, 0]);
        this.#keyNext = code === OBJECT;
        break;
      case OBJECT_END:
      case ARRAY_END:
        this.#indexes.pop();
        this.#keys.pop();
        this.#keyNext = false;
        break;
      case COMMA: {
        const top = this.#indexes.length - 1;
        this.#keyNext = this.#indexes[top] === -1;
        if (!this.#keyNext) this.#indexes[top]!++;
        break;
      }
      case COLON:
        break;
      default:
        return this.#plain(at, code);
    }
    this.end = at + 1;
    return code;
  }

  #string(start: number): void {
    const { text } = this;
    let at = start + 1;
    this.escaped = false;
    for (
      let code = text.charCodeAt(at);
      code !== STRING && at < text.length;
      code = text.charCodeAt(++at)
    ) {
      if (code === BACKSLASH) {
        this.escaped = true;
        at++;
      }
    }
    this.end = at + 1;
    this.isKey = this.#keyNext;
    if (this.isKey) this.#keys[this.#keys.length - 1] = [start, this.end];
    this.#keyNext = false;
  }

  /** A number or a word: it ends where a space or a mark begins. */
  #plain(start: number, first: number): number {
    if (Number.isNaN(first)) return END;
    const { text } = this;
    let at = start + 1;
    for (let code = text.charCodeAt(at); isPlain(code); code = text.charCodeAt(++at));
    this.end = at;
    return first === 0x2d || first >= 0x30 && first <= 0x39 ? NUMBER : WORD;
  }

  /** The path to the token, as far as people are shown it. @param levels how many open containers it may pass */
  path(levels = this.depth): Step[] {
    const path: Step[] = [];
    for (let level = 0; level < Math.min(levels, SHOWN_STEPS + 1); level++) {
      const index = this.#indexes[level]!;
      // An object whose first key is still to come.
      if (index < 0 && this.#keys[level]![1] === 0) break;
      path.push(index >= 0 ? index : this.#key(level));
    }
    return path;
  }

  /** The JSONPath by which RedisJSON finds the value; `null` where its syntax has none for a key. */
  redisPath(): string | null {
    let path = "$";
    for (let level = 0; level < this.depth; level++) {
      const index = this.#indexes[level]!;
      const key = index >= 0 ? "" : this.#key(level);
      // RedisJSON leaves out spaces at its begin.
      const isLost = key.startsWith(" ") || key.includes("\\");
      if (isLost || key.includes('"') && key.includes("'")) return null;
      const quote = key.includes('"') ? "'" : '"';
      path += index >= 0 ? `[${index}]` : `[${quote}${key}${quote}]`;
    }
    return path;
  }

  #key(level: number): string {
    const [start, end] = this.#keys[level]!;
    return end === 0 ? "" : JSON.parse(this.text.slice(start, end)) as string;
  }
}

/** A letter, a digit, a sign or a point: what a number or a word is made of. */
function isPlain(code: number): boolean {
  return code >= 0x30 && code <= 0x39 || code >= 0x61 && code <= 0x7a || code === 0x2e ||
    code === 0x2d || code === 0x2b || code === 0x45;
}
