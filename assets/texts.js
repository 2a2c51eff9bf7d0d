// The words of the page's language, with values put into their places.

const { default: texts } = await import(`./texts.${document.documentElement.lang}.js`);

/** The text for a key, with `{name}` replaced by `values.name`. */
export function text(key, values = {}) {
  const found = texts[key];
  if (found === undefined) throw new Error(`no text ${key}`);
  return found.replace(/\{(\w+)\}/g, (place, name) => (name in values ? String(values[name]) : place));
}

/** The same, or nothing if there is none. */
export function knownText(key) {
  return texts[key];
}
