/** A group on the wall: its nearest images, its name, how large and how pure it is. */
import { groupPath, isNoise, numberOf, titleOf } from './groups.js';
import { number, percent, plural } from './format.js';
import { NameInput, Strip } from './parts.js';
import { Bar, Chip, Text } from './ui.js';
import { html } from './vendor/preact.js';

export function Card({ id, embeddings, group, props, editable: mayEdit, selected, naming, hit, onSelect, onNaming, onRename }) {
  if (!group) return html`<div ...${props} class="group-card waiting" aria-label="Loading"></div>`;
  const editable = mayEdit && !isNoise(group.cluster);
  const title = titleOf(group);
  const pure = group.purity !== null && group.purity !== undefined;
  const click = (event) => {
    // With a key held, a click selects; without one, it opens the group.
    if (!editable || !(event.shiftKey || event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    onSelect(event.shiftKey);
  };
  const about = [plural(group.size, 'image'), pure && `${percent(group.purity)} ${group.majority}`, group.flag && `flag ${group.flag}`, selected && 'selected'];
  return html`<div ...${props} class=${`group-card${selected ? ' selected' : ''}${hit ? ' hit' : ''}`} data-cluster=${group.cluster} aria-label=${`${title}: ${about.filter(Boolean).join(', ')}`} onClick=${click}>
    <a class="covers" href=${groupPath(id, group.cluster)} tabindex="-1" aria-label=${`Open ${title}`}><${Strip} embeddings=${embeddings} rows=${group.covers} /></a>
    ${editable && html`<input class="pick-box" type="checkbox" tabindex="-1" aria-label=${`Select ${title}`} checked=${selected} onClick=${(event) => { event.preventDefault(); event.stopPropagation(); onSelect(event.shiftKey); }} />`}
    <div class="group-words">
      ${naming
        ? html`<${NameInput} value=${group.name} label=${`Name of group ${group.cluster}`} onDone=${(name) => onRename(group, name)} />`
        : html`<div class="group-title">
            <strong class=${group.name ? '' : 'unnamed'}><${Text} value=${title} /></strong>
            ${editable && html`<button class="plain rename" tabindex="-1" aria-label=${`Name ${title}`} title="Name (n)" onClick=${(event) => { event.stopPropagation(); onNaming(); }}>✎</button>`}
          </div>`}
      <div class="group-facts quiet"><span>${number(group.size)}</span>${numberOf(group) && html`<span>${numberOf(group)}</span>`}${pure && html`<span class="pure" title=${`${percent(group.purity)} have the label ${group.majority}`}>${percent(group.purity)} ${group.majority && title !== group.majority ? html`<${Text} value=${group.majority} />` : html`<span class="word">pure</span>`}</span>`}</div>
      ${pure && html`<${Bar} share=${group.purity} label=${`${percent(group.purity)} have the most frequent label`} />`}
    </div>
    <div class="group-chips">
      ${group.matches > 0 && group.matches < group.size && html`<${Chip} kind="mark">${number(group.matches)} match</${Chip}>`}
      ${hit && html`<${Chip} kind="mark">${hit}</${Chip}>`}
      ${group.flag && html`<${Chip} kind="warn"><${Text} value=${group.flag} /></${Chip}>`}
      ${group.parts.length > 1 && html`<${Chip}>${group.parts.length} merged</${Chip}>`}
    </div>
  </div>`;
}
