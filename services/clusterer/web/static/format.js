/** Numbers, sizes and times as people read them. */

const COUNT = new Intl.NumberFormat('en');

export const number = (value) => (value === null || value === undefined ? '–' : COUNT.format(value));
export const fixed = (value, digits = 3) => (typeof value === 'number' ? value.toFixed(digits) : '–');
export const percent = (share, digits = 0) => (typeof share === 'number' ? `${(100 * share).toFixed(digits)} %` : '–');
/** `1 image`, `2 images`, `1,459 images`. */
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export function bytes(count) {
  if (count < 1024) return `${count} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB'];
  let value = count / 1024;
  let at = 0;
  while (value >= 1024 && at < units.length - 1) {
    value /= 1024;
    at += 1;
  }
  return `${value.toFixed(value < 10 ? 1 : 0)} ${units[at]}`;
}

/** `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`. */
export function duration(seconds) {
  if (!(seconds >= 0)) return '–';
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${Math.round((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} d ${Math.round((seconds % 86_400) / 3600)} h`;
}

/** How long ago a time (ISO 8601) was: `just now`, `5 min ago`, `3 d ago`, then the date. */
export function ago(text) {
  if (!text) return '–';
  const seconds = (Date.now() - Date.parse(text)) / 1000;
  if (seconds < 45) return 'just now';
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  if (seconds < 2_592_000) return `${Math.round(seconds / 86_400)} d ago`;
  return new Date(text).toISOString().slice(0, 10);
}
