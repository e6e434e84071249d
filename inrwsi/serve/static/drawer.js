// Tiles drawn on whole pixels of the screen.

const OpenSeadragon = window.OpenSeadragon;
const SAME_SIDE = 1e-6; // an edge is computed for both tiles that it parts: halves have to round the same way

/**
 * OpenSeadragon's canvas drawer makes every tile a pixel larger than it is, to hide the seams between tiles that end
 * within a pixel, and that blurs what is at native scale. Here tiles end where pixels do: no seams, and at native
 * scale what is on screen is what was decoded.
 */
export class WholePixelDrawer extends OpenSeadragon.CanvasDrawer {
  minimumOverlapRequired() {
    return false;
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
