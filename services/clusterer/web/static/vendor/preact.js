/** What the pages use of preact, with `html` for markup: `html`<p>${text}</p>``. Text is always shown as text. */
import { Component, Fragment, createContext, h, render } from './preact/preact.mjs';
import htm from './preact/htm.mjs';

export { Component, Fragment, createContext, h, render };
export {
  useCallback,
  useContext,
  useEffect,
  useId,
  useLayoutEffect,
  useMemo,
  useReducer,
  useRef,
  useState,
} from './preact/hooks.mjs';
export const html = htm.bind(h);
