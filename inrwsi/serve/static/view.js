// A view as text in the address, and numbers as text for a person. Nothing here knows of the page.

const MAGNIFICATIONS = [0.5, 1.25, 2.5, 5, 10, 20, 40, 80, 160];
const PERCENTS = [5, 10, 25, 50, 100, 200, 400, 800];
const SIGNIFICANT = 3;

/** The view that a hash such as #x=1200&y=800&zoom=0.5&compare=0.4 stands for, or null where it stands for none. */
export function viewOf(hash) {
  const values = new URLSearchParams(hash.slice(1));
  const [x, y, zoom] = ["x", "y", "zoom"].map((name) => parseFloat(values.get(name)));
  if (![x, y, zoom].every(Number.isFinite) || zoom <= 0) return null;
  const compare = parseFloat(values.get("compare"));
  return { x, y, zoom, compare: Number.isFinite(compare) ? Math.min(1, Math.max(0, compare)) : null };
}

export function hashOf({ x, y, zoom, compare }) {
  const hash = `#x=${+x.toFixed(1)}&y=${+y.toFixed(1)}&zoom=${+zoom.toPrecision(5)}`;
  return compare === null ? hash : `${hash}&compare=${+compare.toFixed(3)}`;
}

/** Zooms to choose from: magnifications where the slide's own is known, or else percents. */
export function presets(objectivePower, leastZoom, mostZoom) {
  const all = objectivePower
    ? MAGNIFICATIONS.map((power) => ({ zoom: power / objectivePower, text: `${power}×` }))
    : PERCENTS.map((percent) => ({ zoom: percent / 100, text: `${percent}%` }));
  return all.filter(({ zoom }) => zoom > leastZoom && zoom <= Math.min(mostZoom, 4)).slice(-6);
}

/** The longest of 1, 2 and 5 times a power of ten that is at most `most`. */
export function roundLength(most) {
  const room = most * (1 + 1e-9); // of a length that is round but for the arithmetic
  const ten = 10 ** Math.floor(Math.log10(room));
  return ten * [5, 2, 1].find((times) => times * ten <= room);
}

/** Three digits that count, and no exponent. */
export function number(value) {
  return value.toLocaleString("en-GB", { maximumSignificantDigits: SIGNIFICANT });
}

/** A length in micrometres, or in pixels of the slide. */
export function lengthText(length, unit) {
  if (unit === "px") return `${number(length)} px`;
  if (length >= 1000) return `${number(length / 1000)} mm`;
  return length < 1 ? `${number(length * 1000)} nm` : `${number(length)} µm`;
}

export function magnificationText(zoom, objectivePower) {
  const text = objectivePower ? `${number(zoom * objectivePower)}×` : `${number(100 * zoom)} %`;
  return zoom > 1.005 ? `${text} (${number(zoom)}× past native)` : text;
}

export function bitsText(bits) {
  if (bits >= 1e6) return `${number(bits / 1e6)} Mbit`;
  return bits >= 1e3 ? `${number(bits / 1e3)} kbit` : `${number(bits)} bit`;
}

/** What `/quality` says, as the lines of the readout. */
export function qualityText({ bits, bpp, psnr_db: psnrDb }) {
  return {
    bits: bitsText(bits),
    bpp: number(bpp),
    psnr: psnrDb === null ? "not known" : `${psnrDb.toFixed(2)} dB`,
  };
}
