/**
 * Draws points with WebGL 2: places and values stay on the card, colours are a small texture, and a change of colours
 * or of what is shown sends only these.
 */

const VERTEX = `#version 300 es
precision highp float;
precision highp int;
precision highp sampler2D;
layout(location = 0) in vec2 place;
layout(location = 1) in uint value;
layout(location = 2) in uint mark;
uniform vec2 scale;
uniform vec2 offset;
uniform float size;
uniform float opacity;
uniform bool marking;
uniform sampler2D palette;
out vec4 colour;
out float radius;
void main() {
  vec4 found = texelFetch(palette, ivec2(int(value & 1023u), int(value >> 10)), 0);
  bool marked = mark == 1u;
  gl_Position = vec4(place * scale + offset, 0.0, 1.0);
  radius = size * (marked ? 1.25 : 1.0);
  gl_PointSize = max(1.0, radius);
  float seen = found.a > 0.9 ? opacity : found.a;
  if (marking && !marked) seen = min(seen, 0.16);
  if (marked) seen = 1.0;
  // Points that are not shown leave the picture.
  if (found.a == 0.0) gl_Position = vec4(9.0, 9.0, 9.0, 1.0);
  colour = vec4(found.rgb * seen, seen);
}`;
const FRAGMENT = `#version 300 es
precision mediump float;
in vec4 colour;
in float radius;
out vec4 drawn;
void main() {
  float cover = 1.0;
  if (radius > 2.5) {
    float far = length(gl_PointCoord - 0.5) * radius;
    cover = clamp(0.5 * radius - far + 0.5, 0.0, 1.0);
  }
  drawn = colour * cover;
}`;
const WIDTH = 1024;

function program(gl) {
  const made = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(made, shader);
  }
  gl.linkProgram(made);
  if (!gl.getProgramParameter(made, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(made) || 'no program');
  return made;
}

export class WebGLPoints {
  /**
   * @param {HTMLCanvasElement} canvas
   * @throws {Error} WebGL 2 is not to be had
   */
  constructor(canvas) {
    const options = { antialias: false, depth: false, alpha: true, premultipliedAlpha: true, preserveDrawingBuffer: false };
    const gl = canvas.getContext('webgl2', options);
    if (!gl) throw new Error('WebGL 2 is not available');
    this.gl = gl;
    this.kind = 'webgl';
    this.program = program(gl);
    this.count = 0;
    this.types = [gl.UNSIGNED_SHORT, gl.UNSIGNED_BYTE, gl.UNSIGNED_BYTE];
    this.bytes = [4, 1, 1];
    this.buffers = this.types.map(() => gl.createBuffer());
    this.texture = gl.createTexture();
    this.uniforms = Object.fromEntries(
      ['scale', 'offset', 'size', 'opacity', 'marking', 'palette'].map((name) => [
        name,
        gl.getUniformLocation(this.program, name),
      ]),
    );
    gl.useProgram(this.program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.ONE, gl.ONE_MINUS_SRC_ALPHA);
    gl.clearColor(0, 0, 0, 0);
  }

  /** @param {Uint16Array} points */
  setPoints(points) {
    this.count = points.length / 2;
    this._fill(0, points);
    this.setMarks(null);
  }

  /** @param {Uint8Array|Uint16Array|Uint32Array} values place of each point's colour */
  setValues(values) {
    const { gl } = this;
    const types = { 1: gl.UNSIGNED_BYTE, 2: gl.UNSIGNED_SHORT, 4: gl.UNSIGNED_INT };
    this.bytes[1] = values.BYTES_PER_ELEMENT;
    this.types[1] = types[values.BYTES_PER_ELEMENT];
    this._fill(1, values);
  }

  /** @param {Uint8Array|null} marks 1 for each marked point */
  setMarks(marks) {
    this.marking = marks !== null;
    this._fill(2, marks ?? new Uint8Array(this.count));
  }

  /** @param {Uint8Array} colours red, green, blue and alpha of each value; alpha 0 hides */
  setColours(colours) {
    const { gl } = this;
    const rows = Math.max(1, Math.ceil(colours.length / 4 / WIDTH));
    const padded = new Uint8Array(4 * WIDTH * rows);
    padded.set(colours);
    gl.bindTexture(gl.TEXTURE_2D, this.texture);
    gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, WIDTH, rows, 0, gl.RGBA, gl.UNSIGNED_BYTE, padded);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.NEAREST);
    gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, gl.NEAREST);
  }

  /**
   * @param {import('./view.js').View} view
   * @param {{ratio: number, opacity: number, size: number, step?: number}} options `step`: every how many points
   */
  draw(view, { ratio, opacity, size, step = 1 }) {
    const { gl, uniforms } = this;
    gl.viewport(0, 0, gl.drawingBufferWidth, gl.drawingBufferHeight);
    gl.clear(gl.COLOR_BUFFER_BIT);
    if (!this.count) return;
    const [sx, sy] = view.scales;
    gl.uniform2f(uniforms.scale, (2 * sx) / view.width, (2 * sy) / view.height);
    gl.uniform2f(uniforms.offset, (-2 * view.x * sx) / view.width, (-2 * view.y * sy) / view.height);
    gl.uniform1f(uniforms.size, size * ratio);
    gl.uniform1f(uniforms.opacity, opacity);
    gl.uniform1i(uniforms.marking, this.marking ? 1 : 0);
    gl.uniform1i(uniforms.palette, 0);
    // A step is a stride in the same buffers; strides end at 255 bytes.
    const every = Math.max(1, Math.min(step, Math.floor(252 / Math.max(...this.bytes))));
    this._attribute(0, every, (stride) => gl.vertexAttribPointer(0, 2, this.types[0], false, stride, 0));
    for (const at of [1, 2]) {
      this._attribute(at, every, (stride) => gl.vertexAttribIPointer(at, 1, this.types[at], stride, 0));
    }
    gl.drawArrays(gl.POINTS, 0, Math.floor((this.count - 1) / every) + 1);
  }

  /** Settles once what was drawn stands on the screen; the card works on while scripts run. */
  done() {
    const { gl } = this;
    const fence = gl.fenceSync(gl.SYNC_GPU_COMMANDS_COMPLETE, 0);
    gl.flush();
    return new Promise((resolve) => {
      const look = () => {
        const state = gl.isContextLost() ? gl.WAIT_FAILED : gl.clientWaitSync(fence, 0, 0);
        if (state === gl.TIMEOUT_EXPIRED) {
          setTimeout(look, 4);
          return;
        }
        gl.deleteSync(fence);
        resolve();
      };
      setTimeout(look, 0);
    });
  }

  destroy() {
    this.buffers.forEach((buffer) => this.gl.deleteBuffer(buffer));
    this.gl.deleteTexture(this.texture);
    this.gl.deleteProgram(this.program);
  }

  _fill(at, data) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[at]);
    gl.bufferData(gl.ARRAY_BUFFER, data, gl.STATIC_DRAW);
  }

  _attribute(at, every, point) {
    const { gl } = this;
    gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[at]);
    gl.enableVertexAttribArray(at);
    point(every * this.bytes[at]);
  }
}
