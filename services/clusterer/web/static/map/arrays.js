/**
 * Reads the files of `/map/points` and `/map/values`: a length, a JSON header, then the arrays that it lists.
 */

const TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, float32: Float32Array };

/**
 * @param {ArrayBuffer} buffer
 * @returns {{header: Object, arrays: Object<string, Uint8Array|Uint16Array|Uint32Array|Float32Array>}}
 */
export function readArrays(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const arrays = {};
  let at = 4 + length;
  for (const { name, dtype, shape } of header.arrays) {
    const items = shape.reduce((product, size) => product * size, 1);
    arrays[name] = new TYPES[dtype](buffer, at, items);
    at += Math.ceil(arrays[name].byteLength / 8) * 8;
  }
  return { header, arrays };
}
