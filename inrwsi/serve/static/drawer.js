// Tiles drawn on whole pixels of the screen, and past native as the pixels that they are.

const OpenSeadragon = window.OpenSeadragon;
const PAST_NATIVE = 1.001; // screen pixels a level-0 pixel, along a side
const SAME_SIDE = 1e-6; // an edge is computed for both tiles that it parts: halves have to round the same way

/**
 * OpenSeadragon's canvas drawer makes every tile a pixel larger than it is, to hide the seams between tiles that end
 * within a pixel, and that blurs what is at native scale. Here tiles end where pixels do: no seams, and at native
 * scale what is on screen is what was decoded. Past native nothing is made up between pixels: a reader sees where the
 * slide's own detail ends, and tiles, each of which would be interpolated for itself, do not show by their edges.
 */
export class WholePixelDrawer extends OpenSeadragon.CanvasDrawer {
  minimumOverlapRequired() {
    return false;
  }

  /** @param zoom CSS pixels a level-0 pixel. */
  setZoom(zoom) {
    const smooth = zoom * OpenSeadragon.pixelDensityRatio < PAST_NATIVE;
    if (smooth === this.smooth) return; // setting it draws anew
    this.smooth = smooth;
    this.setImageSmoothingEnabled(smooth);
  }

  draw(layers) {
    for (const layer of layers) {
      for (const { tile } of layer.getTilesToDraw()) {
        const end = whole(tile.position.plus(tile.size));
        tile.position = whole(tile.position);
        tile.size = end.minus(tile.position);
      }
    }
    super.draw(layers);
  }
}

function whole(point) {
  const ratio = OpenSeadragon.pixelDensityRatio;
  const round = (value) => Math.round(value * ratio - SAME_SIDE) / ratio;
  return new OpenSeadragon.Point(round(point.x), round(point.y));
}
