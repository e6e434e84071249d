// The compressed slide left of a divider, its source right of it: two layers of one viewer, so they cannot drift apart.

const OpenSeadragon = window.OpenSeadragon;
const STEP = 0.02;
const PAGE = 0.1;

export class Comparison {
  /**
   * @param image the layer of the compressed slide.
   * @param sourceUrl Deep Zoom of the source, of the same size.
   * @param changed called when the divider has moved.
   * @param say shows a message.
   */
  constructor(viewer, image, sourceUrl, slide, changed, say) {
    Object.assign(this, { viewer, image, sourceUrl, slide, changed, say });
    this.share = null; // of the screen's width that is left of the divider; null where there is no comparison
    this.source = null; // the layer of the source slide, some time after it is first asked for
    this.loading = false;
    this.divider = document.getElementById("divider");
    this.grip = document.getElementById("grip");
    this.button = document.getElementById("compare");
    this.button.hidden = false;
    this.#listen();
  }

  toggle() {
    this.set(this.share === null ? 0.5 : null);
  }

  /** @param share from 0 to 1, or null to end the comparison. */
  set(share) {
    if (share === this.share) return;
    this.share = share;
    this.divider.hidden = share === null;
    this.button.setAttribute("aria-pressed", String(share !== null));
    if (share !== null && !this.source && !this.loading) this.#load();
    this.place();
    this.changed();
  }

  /** Put the divider and the edge of both layers where they belong in this view. */
  place() {
    if (this.share !== null) {
      const percent = Math.round(100 * this.share);
      this.divider.style.left = `${this.share * this.viewer.container.clientWidth}px`;
      this.grip.setAttribute("aria-valuenow", percent);
      this.grip.setAttribute("aria-valuetext", `${percent}% compressed, ${100 - percent}% source`);
    }
    const { width, height } = this.slide;
    const edge = this.share !== null && this.source ? Math.min(width, Math.max(0, this.#edge())) : width;
    clip(this.image, 0, edge, width, height);
    if (this.source) clip(this.source, edge, width, width, height);
  }

  /** The divider in level-0 pixels. */
  #edge() {
    const bounds = this.viewer.viewport.getBounds(true);
    return this.image.viewportToImageCoordinates(bounds.x + this.share * bounds.width, bounds.y).x;
  }

  #load() {
    this.loading = true;
    this.viewer.addTiledImage({
      tileSource: this.sourceUrl,
      index: 1,
      x: 0,
      width: 1,
      opacity: 0,
      success: ({ item }) => {
        this.loading = false;
        this.source = item;
        this.place();
      },
      error: () => {
        this.loading = false;
        this.set(null);
        this.say("The source slide could not be opened.");
      },
    });
  }

  #listen() {
    const { grip } = this;
    grip.addEventListener("pointerdown", (event) => grip.setPointerCapture(event.pointerId));
    grip.addEventListener("pointermove", (event) => {
      if (grip.hasPointerCapture(event.pointerId)) this.#moveTo(event.clientX / this.viewer.container.clientWidth);
    });
    grip.addEventListener("keydown", (event) => {
      const to = {
        ArrowLeft: this.share - STEP,
        ArrowDown: this.share - STEP,
        ArrowRight: this.share + STEP,
        ArrowUp: this.share + STEP,
        PageDown: this.share - PAGE,
        PageUp: this.share + PAGE,
        Home: 0,
        End: 1,
      }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      this.#moveTo(to);
    });
  }

  #moveTo(share) {
    this.set(Math.min(1, Math.max(0, share)));
  }
}

/** Show only the columns from `left` to `right` of a layer; nothing where there are none. */
function clip(layer, left, right, width, height) {
  layer.setOpacity(right > left ? 1 : 0);
  const part = right > left && right - left < width;
  const wanted = part ? new OpenSeadragon.Rect(left, 0, right - left, height) : null;
  const has = layer.getClip();
  if (has === wanted || (has && wanted && has.equals(wanted))) return; // setting it draws the layer anew
  layer.setClip(wanted);
}
