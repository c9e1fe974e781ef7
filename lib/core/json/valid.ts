/**
 * Whether bytes are JSON text, without making values of it.
 * @module
 */

const [QUOTE, BACKSLASH, COMMA, COLON, MINUS, PLUS, DOT] = [
  0x22,
  0x5c,
  0x2c,
  0x3a,
  0x2d,
  0x2b,
  0x2e,
];
const [OBJECT, ARRAY, ZERO, NINE] = [0x7b, 0x5b, 0x30, 0x39];
/** A container's end is so much behind its beginning in ASCII. */
const TO_END = 2;
const OBJECT_END = OBJECT + TO_END;
const UNICODE_ESCAPE = 0x75;

/** By byte: what may follow a backslash, hexadecimal digits, and blanks. */
const [ESCAPES, HEX, BLANKS] = [`"\\/bfnrtu`, "0123456789abcdefABCDEF", " \t\n\r"].map((texts) => {
  const table = new Uint8Array(256);
  for (const byte of new TextEncoder().encode(texts)) table[byte] = 1;
  return table;
}) as [Uint8Array, Uint8Array, Uint8Array];
/** The bytes of strings that stand for themselves. */
const PLAIN = Uint8Array.from(
  { length: 256 },
  (_, byte) => byte < 0x20 || byte === QUOTE || byte === BACKSLASH ? 0 : 1,
);
const WORDS = ["true", "false", "null"].map((word) => new TextEncoder().encode(word));

/** How deeply a document may be nested for its being JSON to be seen here. */
const DEPTH = 128;
const NONE = -1;

const ends = new Uint8Array(DEPTH);

/**
 * Whether bytes are JSON text; of a deeply nested one that is not known. `JSON.parse` takes five times as long, since
 * it makes a document of it.
 * @param bytes UTF-8
 * @returns `false` where it is none, and where that is not known
 */
export function isSurelyJson(bytes: Uint8Array): boolean {
  let depth = 0;
  let at = blanksEnd(bytes, 0);
  for (;;) {
    const begin = bytes[at];
    if (begin === OBJECT || begin === ARRAY) {
      at = blanksEnd(bytes, at + 1);
      if (bytes[at] !== begin + TO_END) {
        if (depth === DEPTH) return false;
        ends[depth++] = begin + TO_END;
        if (begin === OBJECT) at = nameEnd(bytes, at);
        if (at === NONE) return false;
        continue;
      }
      at++;
    } else {
      at = begin === QUOTE ? stringEnd(bytes, at + 1) : plainEnd(bytes, at);
      if (at === NONE) return false;
    }
    // Behind a value: ends of containers, then what comes next in one.
    for (;;) {
      at = blanksEnd(bytes, at);
      if (depth === 0) return at === bytes.length;
      if (bytes[at] !== ends[depth - 1]) break;
      depth--;
      at++;
    }
    if (bytes[at] !== COMMA) return false;
    at = blanksEnd(bytes, at + 1);
    if (ends[depth - 1] === OBJECT_END) at = nameEnd(bytes, at);
    if (at === NONE) return false;
  }
}

// Each says where what begins at `at` ends; NONE where it is not whole, or none.

function blanksEnd(bytes: Uint8Array, at: number): number {
  while (at < bytes.length && BLANKS[bytes[at]!] === 1) at++;
  return at;
}

/** A name, its colon, and the blanks around. */
function nameEnd(bytes: Uint8Array, at: number): number {
  if (bytes[at] !== QUOTE) return NONE;
  at = stringEnd(bytes, at + 1);
  if (at === NONE) return NONE;
  at = blanksEnd(bytes, at);
  return bytes[at] === COLON ? blanksEnd(bytes, at + 1) : NONE;
}

/** @param at behind the quote */
function stringEnd(bytes: Uint8Array, at: number): number {
  const { length } = bytes;
  while (at < length) {
    const byte = bytes[at++]!;
    if (PLAIN[byte] === 1) continue;
    if (byte === QUOTE) return at;
    if (byte !== BACKSLASH) return NONE;
    const escape = bytes[at++]!;
    if (ESCAPES[escape] !== 1) return NONE;
    if (escape !== UNICODE_ESCAPE) continue;
    for (const end = at + 4; at < end; at++) if (HEX[bytes[at]!] !== 1) return NONE;
  }
  return NONE;
}

/** A number or a word. */
function plainEnd(bytes: Uint8Array, at: number): number {
  const first = bytes[at]!;
  if (first > NINE) {
    const word = WORDS.find(([letter]) => letter === first);
    const same = word?.every((byte, index) => bytes[at + index] === byte);
    return same ? at + word!.length : NONE;
  }
  if (first === MINUS) at++;
  at = bytes[at] === ZERO ? at + 1 : digitsEnd(bytes, at);
  if (at !== NONE && bytes[at] === DOT) at = digitsEnd(bytes, at + 1);
  if (at === NONE || (bytes[at]! | 0x20) !== 0x65) return at;
  const sign = bytes[at + 1];
  return digitsEnd(bytes, sign === PLUS || sign === MINUS ? at + 2 : at + 1);
}

function digitsEnd(bytes: Uint8Array, at: number): number {
  const from = at;
  while (at < bytes.length && bytes[at]! >= ZERO && bytes[at]! <= NINE) at++;
  return at > from ? at : NONE;
}
