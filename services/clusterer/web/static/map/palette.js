/**
 * Colours of points. Few groups get colours that people with any kind of colour vision tell apart; many groups get
 * hues spread by the golden angle, in three lightnesses, so that neighbours in number differ.
 */

// After Okabe and Ito, shifted in lightness until each has contrast on white and on near-black.
const FEW = {
  light: ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#b58900', '#4aa3d8', '#7b4fb0', '#8a5a2b', '#9c2f4a', '#5f6b76'],
  dark: ['#4da3e0', '#f0803c', '#2fc39a', '#e39cc4', '#e6c14a', '#8fd0f5', '#b295e0', '#c79a6b', '#e5738f', '#b4bec7'],
};
export const NONE = { light: '#9aa4ad', dark: '#5f6a74' };
// Stops of cividis, which colour-blind people see alike.
const RAMP = ['#00224e', '#123570', '#3b496c', '#575d6d', '#707173', '#8a8678', '#a59c74', '#c3b369', '#e1cc55', '#fee838'];
const GOLDEN = 137.50776;

/** Whether the page is dark. */
export function isDark() {
  return window.matchMedia('(prefers-color-scheme: dark)').matches;
}

function fromHex(hex) {
  const value = Number.parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/** OKLCH to sRGB bytes; chroma is lowered until the colour exists. */
export function oklch(lightness, chroma, hue) {
  const angle = (hue * Math.PI) / 180;
  for (let c = chroma; ; c -= 0.01) {
    const a = c * Math.cos(angle);
    const b = c * Math.sin(angle);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    const linear = [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
    if (c <= 0 || linear.every((value) => value >= -0.001 && value <= 1.001)) {
      return linear.map((value) => {
        const inside = Math.min(1, Math.max(0, value));
        return Math.round(255 * (inside <= 0.0031308 ? 12.92 * inside : 1.055 * inside ** (1 / 2.4) - 0.055));
      });
    }
  }
}

/**
 * Colours of groups.
 * @param {number[]} numbers one number a group, such as the cluster's: the same number has the same colour in all maps
 * @param {boolean} dark
 * @returns {Array<[number, number, number]>}
 */
export function groupColours(numbers, dark) {
  const few = FEW[dark ? 'dark' : 'light'];
  if (numbers.length <= few.length) return numbers.map((_, place) => fromHex(few[place]));
  const lightness = dark ? [0.72, 0.82, 0.62] : [0.58, 0.48, 0.68];
  return numbers.map((number) => oklch(lightness[number % 3], 0.14, (number * GOLDEN) % 360));
}

/** 256 colours from low to high: the high end stands out from the ground. */
export function rampColours(dark) {
  const stops = (dark ? RAMP.slice(2) : [...RAMP.slice(0, 9)].reverse()).map(fromHex);
  return Array.from({ length: 256 }, (_, step) => {
    const place = (step / 255) * (stops.length - 1);
    const at = Math.min(stops.length - 2, Math.floor(place));
    return stops[at].map((value, channel) => Math.round(value + (place - at) * (stops[at + 1][channel] - value)));
  });
}

export function noneColour(dark) {
  return fromHex(NONE[dark ? 'dark' : 'light']);
}

export function css([red, green, blue]) {
  return `rgb(${red} ${green} ${blue})`;
}
