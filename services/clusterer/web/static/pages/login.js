/** Log in with an API key: it is exchanged for a cookie that scripts cannot read. */
import { post, readSession } from '../api.js';
import { Field, Page, navigate } from '../ui.js';
import { html, useState } from '../vendor/preact.js';

/** A path of this site that follows the login: never another site's address. */
export function nextPath(text) {
  return text && /^\/(?![/\\])/.test(text) && !text.startsWith('/ui/login') ? text : '/';
}

export default function Login({ query }) {
  const [key, setKey] = useState('');
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setError(null);
    try {
      await post('/session', { key: key.trim() });
      await readSession();
      navigate(nextPath(query.next), { replace: true });
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`<${Page} title="Log in" narrow>
    <form class="card stack" onSubmit=${submit}>
      <input class="hidden" type="text" name="username" value="API key" autocomplete="username" tabindex="-1" aria-hidden="true" readonly />
      <${Field} label="API key" error=${error?.message} hint="Whoever runs Shoal makes one with “shoal keys create”.">
        ${(ids) => html`<input
          ...${ids}
          type="password"
          autocomplete="current-password"
          required
          value=${key}
          onInput=${(event) => setKey(event.target.value)}
        />`}
      </${Field}>
      <button class="primary" disabled=${busy || !key.trim()}>${busy ? 'Checking…' : 'Log in'}</button>
    </form>
  </${Page}>`;
}
