// Numbers, sizes and times as the page's language writes them.

import { text } from './texts.js';

const language = document.documentElement.lang;
const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

export function number(value) {
  return new Intl.NumberFormat(language).format(value);
}

export function bytes(value) {
  let unit = 0;
  let rest = value;
  while (rest >= 1024 && unit < UNITS.length - 1) {
    rest /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || rest >= 100 ? 0 : 1;
  return `${new Intl.NumberFormat(language, { maximumFractionDigits: digits }).format(rest)} ${UNITS[unit]}`;
}

export function moment(ms) {
  return new Intl.DateTimeFormat(language, { dateStyle: 'medium', timeStyle: 'short' }).format(ms);
}

export function day(ms) {
  return new Intl.DateTimeFormat(language, { dateStyle: 'medium' }).format(ms);
}

/** "3 hours ago", and the date from a week on. */
export function ago(ms) {
  const seconds = (ms - Date.now()) / 1000;
  if (Math.abs(seconds) < 90) return text('just-now');
  const relative = new Intl.RelativeTimeFormat(language, { numeric: 'auto' });
  for (const [unit, size, limit] of [['minute', 60, 90 * 60], ['hour', 3600, 36 * 3600], ['day', 86400, 8 * 86400]]) {
    if (Math.abs(seconds) < limit) return relative.format(Math.round(seconds / size), unit);
  }
  return day(ms);
}

/** What a browser's or app's identification says to a person. */
export function agent(userAgent) {
  if (!userAgent) return text('agent.unknown');
  const system = [['Android', /Android/], ['iPhone', /iPhone/], ['iPad', /iPad/], ['Windows', /Windows/], ['macOS', /Mac OS X/], ['Linux', /Linux/]]
    .find(([, pattern]) => pattern.test(userAgent))?.[0];
  const program = [['Electron', /Electron/], ['Edge', /Edg\//], ['Opera', /OPR\//], ['Firefox', /Firefox\//], ['Chrome', /Chrome\//], ['Safari', /Safari\//], ['curl', /^curl/]]
    .find(([, pattern]) => pattern.test(userAgent))?.[0];
  if (program && system) return text('agent.on', { program, system });
  return program ?? system ?? userAgent.slice(0, 40);
}
