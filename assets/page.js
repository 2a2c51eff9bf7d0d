// What every page needs: finding elements, messages, busy buttons, checked forms, questions.

import { Failure } from './api.js';
import { text } from './texts.js';

export const $ = (id) => document.getElementById(id);

/** An element with properties and children. */
export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key in made && key !== 'ariaLabel') made[key] = value;
    else made.setAttribute(key === 'ariaLabel' ? 'aria-label' : key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** Shows a message in a live region; `kind` is error, good, warning or nothing. */
export function say(region, words, kind = '') {
  region.className = `message ${kind}`.trim();
  region.textContent = words;
}

export function hush(region) {
  region.textContent = '';
}

/** What to tell a person about an error. A programming error also goes to the console. */
export function reason(error) {
  if (error instanceof Failure) return error.message;
  if (error?.name === 'NotAllowedError' || error?.name === 'AbortError') return text('passkey.cancelled');
  if (error?.name === 'InvalidStateError') return text('passkey.known');
  if (error?.name === 'SecurityError') return text('passkey.origin');
  console.error(error);
  return text('error.page');
}

/** Runs `work` with the button busy; failures are shown in `region`. Gives whether it worked. */
export async function busy(button, region, work) {
  if (button.getAttribute('aria-busy') === 'true') return false;
  button.setAttribute('aria-busy', 'true');
  if (region) hush(region);
  try {
    await work();
    return true;
  } catch (error) {
    if (region) say(region, reason(error), 'error');
    return false;
  } finally {
    button.removeAttribute('aria-busy');
  }
}

/** Marks a field as wrong with the reason below it, or as right with none. */
export function mark(input, words) {
  const id = `${input.id}Wrong`;
  $(id)?.remove();
  const described = (input.getAttribute('aria-describedby') ?? '').split(' ').filter((part) => part && part !== id);
  if (words) {
    input.setAttribute('aria-invalid', 'true');
    described.push(id);
    input.closest('.field').append(element('p', { id, className: 'wrong', textContent: words }));
  } else {
    input.removeAttribute('aria-invalid');
  }
  if (described.length) input.setAttribute('aria-describedby', described.join(' '));
  else input.removeAttribute('aria-describedby');
}

/** Checks fields by rules `[input, (value) => words or nothing]`; the first wrong one gets the focus. */
export function check(rules) {
  let first = null;
  for (const [input, rule] of rules) {
    const words = rule(input.type === 'checkbox' ? input.checked : input.value);
    mark(input, words);
    if (words && !first) first = input;
  }
  first?.focus();
  return !first;
}

export const isEmail = (value) => (/^[^\s@]+@[^\s@]+\.[^\s@]{2,}$/.test(value.trim()) ? null : text('wrong.email'));
export const isNewPassword = (value) => ([...value].length >= 12 ? null : text('wrong.short'));
export const isGiven = (value) => (value ? null : text('wrong.empty'));
export const repeats = (other) => (value) => (value === other.value ? null : text('wrong.repeat'));
export const isAgreed = (value) => (value ? null : text('wrong.consent'));

/**
 * Asks before something happens. `action` runs while the dialog shows that it does; when it fails the dialog stays with
 * the reason. `typed` is a text that must be typed first; `input` asks for any text, which the action gets. Gives whether it
 * was done.
 */
export function ask({ title, words, confirm, risky = false, typed, input, action }) {
  const dialog = $('dialog');
  const field = $('dialogInput');
  const button = $('dialogConfirm');
  $('dialogTitle').textContent = title;
  $('dialogText').textContent = words ?? '';
  $('dialogText').hidden = !words;
  hush($('dialogMessage'));
  $('dialogField').hidden = typed === undefined && input === undefined;
  $('dialogLabel').textContent = typed === undefined ? (input?.label ?? '') : text('dialog.type', { words: typed });
  field.type = input?.type ?? 'text';
  field.value = input?.value ?? '';
  button.textContent = confirm;
  button.className = risky ? 'risky solid' : 'primary';
  const allow = () => {
    button.disabled = typed !== undefined && field.value.trim() !== typed;
  };
  allow();
  return new Promise((resolve) => {
    let done = false;
    const submit = async (event) => {
      event.preventDefault();
      if (button.disabled) return;
      done = await busy(button, $('dialogMessage'), () => action(field.value));
      if (done) dialog.close();
    };
    const cancel = () => dialog.close();
    const closed = () => {
      $('dialogForm').removeEventListener('submit', submit);
      $('dialogCancel').removeEventListener('click', cancel);
      field.removeEventListener('input', allow);
      field.value = '';
      resolve(done);
    };
    $('dialogForm').addEventListener('submit', submit);
    $('dialogCancel').addEventListener('click', cancel);
    field.addEventListener('input', allow);
    dialog.addEventListener('close', closed, { once: true });
    dialog.showModal();
    if (!$('dialogField').hidden) field.focus();
    else if (risky) $('dialogCancel').focus();
  });
}

/** Puts a text on the clipboard, also on plain http, where browsers only know the old way. */
export async function copy(words, from) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(words);
    return;
  }
  const area = from ?? element('textarea', { value: words, readOnly: true });
  if (!from) document.body.append(area);
  area.select();
  const done = document.execCommand('copy');
  if (!from) area.remove();
  if (!done) throw new Failure(text('error.copy'), 0);
}
