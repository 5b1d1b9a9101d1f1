/** Draws points into the pixels of a canvas, where WebGL is not to be had; the same interface as `WebGLPoints`. */

export class CanvasPoints {
  /** @param {HTMLCanvasElement} canvas */
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext('2d');
    this.kind = 'canvas';
    this.count = 0;
    this.marks = null;
  }

  setPoints(points) {
    this.points = points;
    this.count = points.length / 2;
    this.marks = null;
  }

  setValues(values) {
    this.values = values;
  }

  setMarks(marks) {
    this.marks = marks;
  }

  /** Pixels are written whole, so that a colour is one number. */
  setColours(colours) {
    this.colours = new Uint32Array(colours.slice().buffer);
  }

  draw(view, { ratio, size, step = 1 }) {
    const { width, height } = this.canvas;
    const image = this.context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const [sx, sy] = view.scales.map((scale) => scale * ratio);
    const left = (view.width / 2) * ratio - view.x * sx;
    const top = (view.height / 2) * ratio + view.y * sy;
    const half = Math.max(0, Math.round((size * ratio - 1) / 2));
    const edge = (half + 0.5) ** 2;
    // What is marked comes last, so that it lies on top.
    for (const wanted of this.marks ? [0, 1] : [-1]) {
      for (let i = 0; i < this.count; i += step) {
        if (wanted >= 0 && this.marks[i] !== wanted) continue;
        let colour = this.colours[this.values[i]];
        if (colour >>> 24 === 0) continue;
        if (wanted === 0) colour = (colour & 0xffffff) | 0x28000000;
        const x = Math.round(left + this.points[2 * i] * sx);
        const y = Math.round(top - this.points[2 * i + 1] * sy);
        if (x < half || y < half || x >= width - half || y >= height - half) continue;
        for (let dy = -half; dy <= half; dy += 1) {
          for (let dx = -half; dx <= half; dx += 1) {
            if (dx * dx + dy * dy <= edge) pixels[(y + dy) * width + x + dx] = colour;
          }
        }
      }
    }
    this.context.putImageData(image, 0, 0);
  }

  async done() {}

  destroy() {}
}
