// What the panels say of the view: scale bar, magnification, and bits, bits a pixel and PSNR of what is on screen.

import { lengthText, magnificationText, qualityText, roundLength } from "./view.js";

const ASK_AFTER_MS = 300;
const BAR_SHARE = 0.14; // of the screen's width
const BAR_PX = [70, 240];
const MEASURED = ["bits", "bpp", "psnr"];

const byId = (id) => document.getElementById(id);

export class Readout {
  /** @param image the layer whose coordinates are level-0 pixels. */
  constructor(viewer, image, slide) {
    Object.assign(this, { viewer, image, slide, asked: null, timer: 0, query: "" });
  }

  /** @param zoom screen pixels a level-0 pixel. */
  show(zoom) {
    byId("magnification").textContent = magnificationText(zoom, this.slide.objective_power);
    this.#showScale(zoom);
    const query = this.#query(zoom);
    if (query !== this.query) this.#askLater(query);
  }

  #showScale(zoom) {
    const [unit, perPixel] = this.slide.mpp_um ? ["um", this.slide.mpp_um[0]] : ["px", 1];
    const most = Math.min(BAR_PX[1], Math.max(BAR_PX[0], BAR_SHARE * this.viewer.container.clientWidth));
    const length = roundLength((most / zoom) * perPixel);
    const text = lengthText(length, unit);
    byId("scale-bar").style.width = `${(length / perPixel) * zoom}px`;
    byId("scale-text").textContent = text;
    byId("scale").setAttribute("aria-label", `Scale bar: ${text}`);
  }

  /** The part of the slide that is on screen, as `/quality` is asked for it, or "" where none of it is. */
  #query(zoom) {
    const seen = this.image.viewportToImageRectangle(this.viewer.viewport.getBounds(true));
    const [x, y] = [Math.max(0, Math.floor(seen.x)), Math.max(0, Math.floor(seen.y))];
    const w = Math.min(this.slide.width, Math.ceil(seen.x + seen.width)) - x;
    const h = Math.min(this.slide.height, Math.ceil(seen.y + seen.height)) - y;
    if (w <= 0 || h <= 0) return "";
    const downsample = Math.max(1, 1 / (zoom * devicePixelRatio));
    return `x=${x}&y=${y}&w=${w}&h=${h}&downsample=${+downsample.toPrecision(5)}`;
  }

  #askLater(query) {
    this.query = query;
    clearTimeout(this.timer);
    this.asked?.abort();
    this.#state("old");
    if (query) this.timer = setTimeout(() => this.#ask(query), ASK_AFTER_MS);
    else this.#writeAll("-", "none");
  }

  async #ask(query) {
    this.asked = new AbortController();
    const { signal } = this.asked;
    try {
      const answer = await fetch(`../quality/${this.slide.path}?${query}`, { signal });
      if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
      this.#write(qualityText(await answer.json()), "measured");
    } catch (error) {
      if (!signal.aborted) this.#writeAll("not measured", "failed");
    }
  }

  #writeAll(text, state) {
    this.#write(Object.fromEntries(MEASURED.map((id) => [id, text])), state);
  }

  #write(texts, state) {
    for (const id of MEASURED) byId(id).textContent = texts[id];
    this.#state(state);
  }

  /** Numbers of an earlier view are pale until those of this one are there. */
  #state(state) {
    for (const id of MEASURED) byId(id).dataset.state = state;
  }
}
