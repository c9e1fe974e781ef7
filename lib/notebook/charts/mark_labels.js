/**
 * Where the words beside marks stand, so that they never overlap: in notebooks, and in the stage's page, which is why
 * this is JavaScript.
 * @module
 */

/**
 * A place for a mark's words: `height` counts rows from the picture upwards, from 0; `before` says that they end at the
 * mark's line instead of beginning there; `begin` and `end` are where they are, with their gap to the line.
 * @typedef {{ height: number, before: boolean, begin: number, end: number }} LabelPlace
 */

/**
 * Finds a place for each mark's words: no words cover others, and no line, which runs down from its own words, crosses
 * others. The newest are placed first, each as low as it can; those that find no place go without. No row below
 * the highest words is left empty.
 * @param {readonly { x: number, width: number }[]} marks in the order of `x`; `width` with the gap to the line
 * @param {{ left: number, right: number, rows: number }} room between which places, and in how many rows
 * @returns {(LabelPlace | null)[]} a place for each mark, or null
 */
export function placeLabels(marks, { left, right, rows }) {
  /** @type {(LabelPlace | null)[]} */
  const places = marks.map(() => null);
  const isFree = (/** @type {number} */ x, /** @type {LabelPlace} */ { height, begin, end }) =>
    places.every((other, index) =>
      other === null ||
      (other.height !== height || end <= other.begin || begin >= other.end) &&
        (other.height >= height || x <= other.begin || x >= other.end) &&
        (other.height <= height || marks[index].x <= begin || marks[index].x >= end)
    );
  const heights = Array.from({ length: rows }, (_, height) => height);
  for (let index = marks.length - 1; index >= 0; index--) {
    const { x, width } = marks[index];
    // Words behind their line stand below those of older marks, words before their line above them.
    const sides = [
      ...heights.map((height) => ({ height, before: false, begin: x, end: x + width })),
      ...heights.toReversed().map((height) => (
        { height, before: true, begin: x - width, end: x }
      )),
    ];
    places[index] = sides.find((place) =>
      place.begin >= left && place.end <= right && isFree(x, place)
    ) ?? null;
  }
  // Words before their line began at the top, so that older ones fit below: where none did, they come down. The order
  // of the heights stays, so nothing meets that did not.
  const used = heights.filter((height) => places.some((place) => place?.height === height));
  return places.map((place) => place && { ...place, height: used.indexOf(place.height) });
}

/** Characters that are narrower or wider than most, in the widest of the usual fonts. */
const NARROW = /[fijlrtI .,:;'|!()[\]-]/;
const WIDE = /[mwMW@%×—…]|[^ -~]/;

/**
 * How wide a text is at most, where nobody can measure it.
 * @param {string} text
 * @param {number} size of its letters
 * @returns {number} in the unit of `size`
 */
export function widthOf(text, size) {
  const ems = [...text].map((letter) =>
    WIDE.test(letter) ? 1.05 : NARROW.test(letter) ? 0.42 : /[A-Z]/.test(letter) ? 0.78 : 0.64
  );
  return size * ems.reduce((sum, em) => sum + em, 0);
}
