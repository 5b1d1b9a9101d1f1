/** Pictures: one thumbnail, and a grid of any number of items of which only those in sight exist. */
import { thumbnail } from './api.js';
import { html, useEffect, useLayoutEffect, useRef, useState } from './vendor/preact.js';

const NEAR = '600px';
let watcher;
const waiting = new WeakMap();

/** Call `seen` once when `element` comes near the window. Returns a function that stops. */
function whenNear(element, seen) {
  watcher ??= new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        watcher.unobserve(entry.target);
        waiting.get(entry.target)?.();
      }
    },
    { rootMargin: NEAR },
  );
  waiting.set(element, seen);
  watcher.observe(element);
  return () => watcher.unobserve(element);
}

/** The thumbnail of a row, read when it comes near the window; its path where it has none. */
export function Thumb({ embeddings, row, path, alt, size, kind = '' }) {
  const place = useRef(null);
  const [image, setImage] = useState(undefined);
  useEffect(() => {
    let gone = false;
    setImage(undefined);
    const stop = whenNear(place.current, async () => {
      const found = await thumbnail(embeddings, row);
      if (!gone) setImage(found);
    });
    return () => {
      gone = true;
      stop();
    };
  }, [embeddings, row]);
  const name = alt ?? path ?? `row ${row}`;
  const style = size ? { width: `${size}px`, height: `${size}px` } : undefined;
  return html`<span class=${`thumb ${kind}`} ref=${place} style=${style} title=${path}>
    ${image && html`<img src=${image} alt=${name} draggable="false" decoding="async" />`}
    ${image === null && html`<span class="none"><bdi>${name}</bdi></span>`}
  </span>`;
}

/**
 * A grid of `count` items that scrolls with the window; only rows in sight (and a few beside) are drawn.
 *
 * `item(index, props)` draws one; spread `props` on its outer element, which can have the focus. Arrow keys, Home, End
 * and Page Up/Down move the focus; `onKey(event, index)` gets the other keys.
 * `onRange(first, end)` says which items are drawn, so that a page can load them.
 * Items are at least `width` px wide and `height(width)` px high (a number or a function of the real width).
 */
export function VirtualGrid({ count, width, height, gap = 8, item, label, onRange, onKey, overscan = 3 }) {
  const place = useRef(null);
  const [box, setBox] = useState({ width: 0, first: 0, end: 0 });
  const [active, setActive] = useState(0);
  const columns = Math.max(1, Math.floor((box.width + gap) / (width + gap)));
  const wide = box.width ? (box.width - gap * (columns - 1)) / columns : width;
  const high = typeof height === 'function' ? height(wide) : height;
  const lines = Math.ceil(count / columns);

  useLayoutEffect(() => {
    const measure = () => {
      const element = place.current;
      if (!element) return;
      const { top, width: now } = element.getBoundingClientRect();
      const line = high + gap;
      const first = Math.max(0, Math.floor(-top / line) - overscan);
      const end = Math.min(lines, Math.ceil((innerHeight - top) / line) + overscan);
      setBox((was) => (was.width === now && was.first === first && was.end === end ? was : { width: now, first, end }));
    };
    measure();
    addEventListener('scroll', measure, { passive: true });
    const resized = new ResizeObserver(measure);
    resized.observe(place.current);
    return () => {
      removeEventListener('scroll', measure);
      resized.disconnect();
    };
  }, [count, columns, high, gap, lines]);

  const first = box.first * columns;
  const end = Math.min(count, box.end * columns);
  useEffect(() => {
    if (end > first) onRange?.(first, end);
  }, [first, end, count]);

  const moveTo = (index) => {
    const next = Math.max(0, Math.min(count - 1, index));
    setActive(next);
    const top = place.current.getBoundingClientRect().top + Math.floor(next / columns) * (high + gap);
    if (top < 70) scrollBy(0, top - 90);
    else if (top + high > innerHeight) scrollBy(0, top + high - innerHeight + 20);
    // The item may be drawn only after the scroll.
    const focus = (tries) => {
      const element = place.current?.querySelector(`[data-index="${next}"]`);
      if (element) element.focus({ preventScroll: true });
      else if (tries) requestAnimationFrame(() => focus(tries - 1));
    };
    focus(10);
  };
  const keys = (event) => {
    if (event.target.closest('input, textarea, select')) return;
    const page = Math.max(1, Math.floor(innerHeight / (high + gap)) - 1) * columns;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page };
    const target = { Home: 0, End: count - 1 }[event.key] ?? (steps[event.key] && active + steps[event.key]);
    if (target === undefined || event.ctrlKey || event.metaKey) onKey?.(event, active);
    else {
      event.preventDefault();
      moveTo(target);
    }
  };

  const items = [];
  for (let index = first; index < end; index++) {
    const style = {
      position: 'absolute',
      width: `${wide}px`,
      height: `${high}px`,
      left: `${(index % columns) * (wide + gap)}px`,
      top: `${Math.floor(index / columns) * (high + gap)}px`,
    };
    items.push(
      item(index, {
        key: index,
        style,
        role: 'listitem',
        'data-index': index,
        tabindex: index === active ? 0 : -1,
        'aria-posinset': index + 1,
        'aria-setsize': count,
        onFocus: () => setActive(index),
      }),
    );
  }
  const total = Math.max(0, lines * (high + gap) - gap);
  return html`<div class="grid" role="list" aria-label=${label} ref=${place} style=${{ height: `${total}px` }} onKeyDown=${keys}>${items}</div>`;
}
