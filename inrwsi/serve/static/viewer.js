// The page of one slide: OpenSeadragon, the controls around it, and the view in the address.

import { Comparison } from "./compare.js";
import { WholePixelDrawer } from "./drawer.js";
import { Readout } from "./readout.js";
import { hashOf, presets, viewOf } from "./view.js";

const OpenSeadragon = window.OpenSeadragon;
const MOST_ZOOM = 16; // screen pixels a level-0 pixel
const REQUESTS = 5; // at once; browsers allow a server six, and the readout needs one
const HASH_AFTER_MS = 250; // browsers refuse an address that changes more often than some three times a second
const OTHER_KEYS = ["KeyR", "KeyF", "KeyJ", "KeyK"]; // OpenSeadragon turns, mirrors and leafs by them

const byId = (id) => document.getElementById(id);
const stage = byId("viewer");
const slide = JSON.parse(stage.dataset.slide);
const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;

byId("navigator").style.aspectRatio = Math.min(3, Math.max(0.6, slide.width / slide.height));

const viewer = OpenSeadragon({
  element: stage,
  tileSources: `../dz/${slide.path}.dzi`,
  drawer: WholePixelDrawer, // of a canvas: the same pixels on every machine, and no need of a graphics card
  smoothTileEdgesMinZoom: Infinity, // there are no seams to smooth
  showNavigationControl: false,
  showNavigator: true,
  navigatorId: "navigator",
  navigatorOpacity: 1,
  animationTime: calm ? 0 : 0.5,
  springStiffness: 9,
  zoomPerScroll: 1.3,
  minPixelRatio: 0.501, // at exactly half of a level, the next one is as sharp and a quarter of the tiles
  minZoomImageRatio: 0.7,
  maxZoomPixelRatio: MOST_ZOOM,
  visibilityRatio: 0.2,
  imageLoaderLimit: REQUESTS,
  maxImageCacheCount: 500,
  timeout: 120000,
  tileRetryMax: 2,
  gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true },
  gestureSettingsPen: { clickToZoom: false, dblClickToZoom: true },
});

let image = null; // the layer of the compressed slide: its coordinates are level-0 pixels
let readout = null;
let comparison = null;
let hashTimer = 0;

// ---- the view: a centre in level-0 pixels, and a zoom in screen pixels a level-0 pixel

const zoomNow = (current) => image.viewportToImageZoom(viewer.viewport.getZoom(current));

function show({ x, y, zoom, compare }, immediately = true) {
  const centre = image.imageToViewportCoordinates(x, y);
  viewer.viewport.panTo(centre, immediately);
  viewer.viewport.zoomTo(image.imageToViewportZoom(zoom), null, immediately);
  viewer.viewport.applyConstraints(immediately);
  comparison?.set(compare);
}

function view() {
  const centre = image.viewportToImageCoordinates(viewer.viewport.getCenter());
  return { x: centre.x, y: centre.y, zoom: zoomNow(false), compare: comparison?.share ?? null };
}

function keepInAddress() {
  clearTimeout(hashTimer);
  hashTimer = setTimeout(() => history.replaceState(history.state, "", hashOf(view())), HASH_AFTER_MS);
}

function zoomTo(zoom) {
  viewer.viewport.zoomTo(image.imageToViewportZoom(zoom)).applyConstraints();
}

function zoomBy(factor) {
  viewer.viewport.zoomBy(factor).applyConstraints();
}

// ---- controls

function press(id, action) {
  byId(id).addEventListener("click", action);
}

function addPresets() {
  const least = image.viewportToImageZoom(viewer.viewport.getHomeZoom());
  for (const { zoom, text } of presets(slide.objective_power, least, MOST_ZOOM)) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "control", textContent: text });
    button.dataset.zoom = zoom;
    button.addEventListener("click", () => zoomTo(zoom));
    byId("magnifications").append(button);
  }
}

function markPreset(zoom) {
  for (const button of byId("magnifications").children) {
    button.setAttribute("aria-pressed", String(Math.abs(zoom / button.dataset.zoom - 1) < 0.005));
  }
}

function toggleFullScreen() {
  const done = document.fullscreenElement ? document.exitFullscreen() : document.documentElement.requestFullscreen();
  done.catch(() => say("This browser does not allow full screen here."));
}

async function copyLink() {
  history.replaceState(history.state, "", hashOf(view()));
  try {
    await navigator.clipboard.writeText(location.href);
    say("The link to this view is copied.");
  } catch {
    say("The browser did not allow the copy; the link is in the address bar.");
  }
}

function addControls() {
  press("zoom-in", () => zoomBy(1.6));
  press("zoom-out", () => zoomBy(1 / 1.6));
  press("fit", () => viewer.viewport.goHome());
  press("compare", () => comparison.toggle());
  press("full-screen", toggleFullScreen);
  press("link", copyLink);
  byId("full-screen").hidden = !document.fullscreenEnabled;
  byId("link").hidden = !navigator.clipboard; // it is there on https and on localhost only
  addPresets();

  viewer.canvas.setAttribute("role", "application");
  viewer.canvas.setAttribute(
    "aria-label",
    `Slide ${slide.name}. Arrow keys pan, plus and minus zoom, 0 shows the whole slide, F fills the screen` +
      (slide.source ? ", C compares it with its source." : "."),
  );
  viewer.addHandler("canvas-key", (event) => {
    const { code, ctrlKey, metaKey, altKey } = event.originalEvent;
    event.preventDefaultAction ||= OTHER_KEYS.includes(code);
    if (ctrlKey || metaKey || altKey) return;
    if (code === "KeyF") toggleFullScreen();
    if (code === "KeyC") comparison?.toggle();
  });
}

// ---- messages

let messageTimer = 0;

function say(text, ms = 5000) {
  clearTimeout(messageTimer);
  byId("message").textContent = text;
  byId("message").hidden = false;
  if (ms) messageTimer = setTimeout(() => (byId("message").hidden = true), ms);
}

// ---- start

/** Tiles of less than one tile's size in all: each is a request, and none shows more than the next level does. */
function skipSmallLevels(source) {
  const side = Math.max(source.dimensions.x, source.dimensions.y);
  source.minLevel = Math.max(0, source.maxLevel - Math.ceil(Math.log2(Math.max(1, side / source.getTileWidth(0)))));
}

function updateBusy() {
  const items = Array.from({ length: viewer.world.getItemCount() }, (_, number) => viewer.world.getItemAt(number));
  stage.setAttribute("aria-busy", String(!items.every((item) => item.getOpacity() === 0 || item.getFullyLoaded())));
}

function changed() {
  const zoom = zoomNow(true);
  viewer.drawer.setZoom(zoom);
  readout.show(zoom);
  markPreset(zoom);
  comparison?.place();
}

viewer.world.addHandler("add-item", ({ item }) => {
  skipSmallLevels(item.source);
  item.addHandler("fully-loaded-change", updateBusy);
  item.addHandler("opacity-change", updateBusy);
  updateBusy();
});

viewer.addOnceHandler("open", () => {
  image = viewer.world.getItemAt(0);
  readout = new Readout(viewer, image, slide);
  if (slide.source) {
    comparison = new Comparison(viewer, image, `../dz-source/${slide.path}.dzi`, slide, keepInAddress, say);
  }
  addControls();
  const asked = viewOf(location.hash);
  if (asked) show(asked);
  changed();
  keepInAddress();
  viewer.addHandler("viewport-change", changed);
  viewer.addHandler("resize", changed);
  viewer.addHandler("viewport-change", keepInAddress);
  // What is waiting for its turn may be out of view by now; what is still in view asks again at the next frame.
  for (const name of ["pan", "zoom"]) viewer.addHandler(name, () => viewer.imageLoader.clear());
  addEventListener("hashchange", () => {
    const next = viewOf(location.hash);
    if (next) show(next, calm);
    keepInAddress();
  });
});

viewer.addHandler("open-failed", () => say("The slide could not be opened: the server gave no tiles of it.", 0));
viewer.addHandler("tile-load-failed", async ({ maxReached, tile }) => {
  if (maxReached) say(`A part of the slide could not be loaded. ${await reasonOf(tile.getUrl())}`);
});

/** What the server says of what it does not give: a picture's own request does not tell. */
async function reasonOf(url) {
  try {
    const answer = await fetch(url);
    if (!answer.ok) return await answer.text();
  } catch {
    // nobody answers
  }
  return "Reload the page to try again.";
}
