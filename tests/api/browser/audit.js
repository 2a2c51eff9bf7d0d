// What is wrong with the page for people who don't see it well, don't see it at all, or use no mouse. Gives a list of
// complaints about what is visible now.
(() => {
  const complaints = [];
  const shown = (element) => element.checkVisibility({ visibilityProperty: true, opacityProperty: true }) && element.getClientRects().length > 0;
  const name = (element) => `<${element.tagName.toLowerCase()}${element.id ? ` id=${element.id}` : ''}> "${(element.innerText ?? '').trim().slice(0, 30)}"`;
  const all = (css) => [...document.querySelectorAll(css)];
  const modal = document.querySelector('dialog[open]');
  const visible = (css) => all(css).filter((element) => shown(element) && (!modal || modal.contains(element)));

  if (!document.documentElement.lang) complaints.push('the page has no language');
  if (!document.title.trim()) complaints.push('the page has no title');
  for (const landmark of ['header', 'main', 'footer']) if (all(landmark).length !== 1) complaints.push(`not one ${landmark}`);
  if (visible('h1').length === 0 && !modal) complaints.push('no main heading');
  let level = 1;
  for (const heading of visible('h1, h2, h3, h4')) {
    const own = Number(heading.tagName[1]);
    if (own > level + 1) complaints.push(`${name(heading)} skips a level`);
    level = own;
  }
  const ids = all('[id]').map((element) => element.id);
  for (const id of new Set(ids.filter((one, place) => ids.indexOf(one) !== place))) complaints.push(`two elements are called ${id}`);
  for (const attribute of ['for', 'aria-labelledby', 'aria-describedby', 'aria-controls'])
    for (const element of all(`[${attribute}]`))
      for (const id of element.getAttribute(attribute).split(/\s+/))
        if (!document.getElementById(id)) complaints.push(`${name(element)}: ${attribute} names ${id}, which is not there`);

  const label = (element) =>
    element.getAttribute('aria-label')?.trim() ||
    (element.getAttribute('aria-labelledby') ?? '').split(/\s+/).map((id) => document.getElementById(id)?.textContent ?? '').join(' ').trim() ||
    [...(element.labels ?? [])].map((one) => one.textContent).join(' ').trim() ||
    (['BUTTON', 'A', 'SUMMARY'].includes(element.tagName) ? element.textContent.trim() : '') ||
    element.getAttribute('alt');
  for (const element of visible('button, a[href], input:not([type=hidden]), textarea, select, summary, progress, dialog[open]'))
    if (!label(element)) complaints.push(`${name(element)} has no name`);
  for (const image of all('img')) if (!image.hasAttribute('alt')) complaints.push(`${name(image)} has no alternative text`);
  for (const picture of all('svg')) if (picture.getAttribute('aria-hidden') !== 'true') complaints.push('a drawing is neither hidden nor named');
  for (const element of all('[tabindex]')) if (element.tabIndex > 0) complaints.push(`${name(element)} jumps the queue`);
  for (const element of all('[style]')) if (!element.closest('svg')) complaints.push(`${name(element)} has a style of its own`);

  // At least 24 by 24 pixels to hit (WCAG 2.2, 2.5.8); links within text are exempt.
  for (const element of visible('button, summary, input[type=checkbox], header a, footer a, .tools a')) {
    const { width, height } = element.getBoundingClientRect();
    const small = element.matches('input[type=checkbox]') ? 20 : 24;
    if (width < small || height < small) complaints.push(`${name(element)} is hard to hit: ${Math.round(width)}×${Math.round(height)}`);
  }

  const canvas = new OffscreenCanvas(1, 1).getContext('2d', { willReadFrequently: true });
  const rgba = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const background = (element) => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) {
      const colour = rgba(getComputedStyle(at).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    return layers.reverse().reduce((below, top) => over(top, below), dark ? [18, 18, 18, 1] : [255, 255, 255, 1]);
  };
  const light = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const texts = new Set();
  const walk = document.createTreeWalker(modal ?? document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) if (walk.currentNode.data.trim()) texts.add(walk.currentNode.parentElement);
  for (const element of texts) {
    if (!shown(element) || element.closest('script, noscript, .visually-hidden, .skip, :disabled')) continue;
    const style = getComputedStyle(element);
    const behind = background(element);
    const ratio = contrast(over(rgba(style.color), behind), behind);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700) ? 3 : 4.5;
    if (ratio < needed) complaints.push(`${name(element)} is hard to read: ${ratio.toFixed(2)}`);
  }
  if (document.documentElement.scrollWidth > document.documentElement.clientWidth) {
    const wide = all('body *').filter((element) => shown(element) && element.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
    complaints.push(`the page is wider than the window: ${wide.slice(0, 5).map(name).join(', ')}`);
  }
  return complaints;
})()
