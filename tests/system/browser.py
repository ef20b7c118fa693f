"""What a browser shows of a page: errors, shapes of charts, contrasts of texts."""

from __future__ import annotations

# What a browser says of itself or of a page.
WRONG = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
READABLE = 4.5
CHARTS = 8
# The lowest contrast of a text with the background behind it, by WCAG 2; a text of a chart has its colour as fill.
CONTRAST = """(() => {
  const channels = text => text.match(/[\\d.]+/g).map(Number);
  const light = text => { const [r, g, b] = channels(text).map(it => it / 255)
    .map(it => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const opaque = text => { const found = channels(text); return found.length === 3 || found[3] > 0; };
  const behind = it => opaque(getComputedStyle(it).backgroundColor) ? getComputedStyle(it).backgroundColor
    : behind(it.parentElement);
  const ratios = [...document.body.querySelectorAll('*')]
    .filter(it => it.getClientRects().length && [...it.childNodes].some(n => n.nodeType === 3 && n.data.trim()))
    .map(it => { const style = getComputedStyle(it);
      const [a, b] = [light(it.closest('svg') ? style.fill : style.color), light(behind(it))].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05); });
  return [ratios.length, Math.min(...ratios)];
})()"""
# For each chart: how many shapes with an area or a length are drawn in its first colour.
SHAPES = """JSON.parse(document.getElementById('charts').textContent).map(({ name, colours }) => {
  const colour = getComputedStyle(document.documentElement).getPropertyValue(`--${colours[0]}`).trim();
  return [...document.querySelectorAll(`#${name} svg path`)].filter(it => {
    const box = it.getBBox();
    return [it.getAttribute('fill'), it.getAttribute('stroke')].includes(colour) && box.width + box.height > 0;
  }).length;
})"""
