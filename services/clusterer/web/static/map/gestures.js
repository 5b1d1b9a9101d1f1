/** Turns what a person does with pointer, wheel and keys into moves of a view. */

const STEP = 60;

/**
 * @param {HTMLElement} element takes the events
 * @param {{
 *   view: () => import('./view.js').View, lassoing: () => boolean, changed: () => void,
 *   hover: (x: number, y: number) => void, leave: () => void, click: (x: number, y: number, event: PointerEvent) => void,
 *   line: (line: Array<[number, number]>, done: boolean) => void,
 * }} on `line`: the pixels of a lasso so far
 * @returns {() => void} stops listening
 */
export function listen(element, on) {
  const pointers = new Map();
  let line = null;
  let rectangle = false;
  let moved = false;

  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };

  const corners = ([x0, y0], [x1, y1]) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

  function down(event) {
    if (event.button > 0) return;
    element.setPointerCapture?.(event.pointerId);
    pointers.set(event.pointerId, place(event));
    moved = false;
    if (pointers.size > 1) {
      // Two fingers zoom, whatever was begun with one.
      if (line) on.line([], true);
      line = null;
    } else if (on.lassoing() || event.shiftKey) {
      rectangle = event.shiftKey;
      line = [place(event)];
    }
  }

  function pinch(event) {
    const [first, second] = [...pointers.keys()];
    const other = pointers.get(event.pointerId === first ? second : first);
    const before = pointers.get(event.pointerId);
    const now = place(event);
    const factor = Math.hypot(now[0] - other[0], now[1] - other[1]) / (Math.hypot(before[0] - other[0], before[1] - other[1]) || 1);
    on.view().pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    on.view().zoomAt(factor, (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }

  function move(event) {
    const now = place(event);
    const before = pointers.get(event.pointerId);
    if (!before) {
      on.hover(...now);
      return;
    }
    if (line) {
      line = rectangle ? [line[0], now] : [...line, now];
      moved = true;
      on.line(rectangle ? corners(line[0], now) : line, false);
    } else if (pointers.size > 1) {
      pinch(event);
      on.changed();
    } else if (moved || Math.hypot(now[0] - before[0], now[1] - before[1]) > 3) {
      moved = true;
      on.view().pan(now[0] - before[0], now[1] - before[1]);
      on.changed();
    } else {
      return;
    }
    pointers.set(event.pointerId, now);
  }

  function up(event) {
    if (!pointers.delete(event.pointerId)) return;
    if (line && moved) on.line(rectangle ? corners(line[0], line.at(-1)) : line, true);
    else if (!moved && pointers.size === 0) on.click(...place(event), event);
    line = null;
  }

  function cancel(event) {
    pointers.delete(event.pointerId);
    if (line) on.line([], true);
    line = null;
  }

  function wheel(event) {
    event.preventDefault();
    const pixels = event.deltaMode === 1 ? 16 * event.deltaY : event.deltaY;
    // A pinch on a touchpad comes as a wheel with Ctrl, in small steps.
    on.view().zoomAt(Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.0016)), ...place(event));
    on.changed();
  }

  const listeners = {
    pointerdown: down, pointermove: move, pointerup: up, pointercancel: cancel, wheel,
    pointerleave: () => on.leave(),
  };
  for (const [name, listener] of Object.entries(listeners)) element.addEventListener(name, listener, { passive: false });
  return () => {
    for (const [name, listener] of Object.entries(listeners)) element.removeEventListener(name, listener);
  };
}

/** Moves the view for a key; whether the key means a move. */
export function moveByKey(view, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey && event.key.startsWith('Arrow')) return false;
  const moves = {
    ArrowLeft: () => view.pan(STEP, 0),
    ArrowRight: () => view.pan(-STEP, 0),
    ArrowUp: () => view.pan(0, STEP),
    ArrowDown: () => view.pan(0, -STEP),
    '+': () => view.zoomAt(1.4),
    '=': () => view.zoomAt(1.4),
    '-': () => view.zoomAt(1 / 1.4),
    '−': () => view.zoomAt(1 / 1.4),
    0: () => view.reset(),
  };
  const found = moves[event.key];
  found?.();
  return Boolean(found);
}
