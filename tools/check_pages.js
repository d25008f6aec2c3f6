// What a reader meets on the page as it stands. Each check returns sentences.

const quote = (text) => `"${text.trim().replace(/\s+/g, " ").slice(0, 60)}"`;
const unique = (sentences) => [...new Set(sentences)];

function name(element) {
  const classes = [...element.classList].slice(0, 2).map((one) => `.${one}`);
  return element.localName + classes.join("");
}

// Elements with a text of their own that can be seen; formulas count as text.
function* written() {
  const seen = { visibilityProperty: true, opacityProperty: true };
  for (const element of document.body.querySelectorAll("*")) {
    const formula = element.localName === "mjx-container";
    if (!formula && element.closest("mjx-container, svg, script, style, noscript")) continue;
    const nodes = [...element.childNodes].filter((n) => formula || n.nodeType === Node.TEXT_NODE);
    const text = nodes.map((node) => node.textContent).join(" ").trim();
    if (!text) continue;
    const { width, height } = element.getBoundingClientRect();
    if (width > 1 && height > 1 && element.checkVisibility(seen)) yield [element, text];
  }
}

function formulas() {
  const found = [];
  for (const element of document.querySelectorAll(".math")) {
    if (!element.querySelector("mjx-container"))
      found.push(`formula not typeset: ${quote(element.textContent)}`);
  }
  for (const element of document.querySelectorAll("mjx-merror, [data-mjx-error]")) {
    const error = element.dataset.mjxError ?? element.textContent;
    found.push(`formula with an error: ${quote(error)}`);
  }
  for (const element of document.querySelectorAll("mjx-container mtext")) {
    if (element.textContent.startsWith("\\"))
      found.push(`formula with an unknown command: ${quote(element.textContent)}`);
  }
  for (const [element, text] of written()) {
    if (/\$|\\[()[\]]|\\[a-z]{2}/.test(text) && !element.closest("pre, code, .sig, mjx-container"))
      found.push(`formula as raw text: ${quote(text)}`);
  }
  return unique(found);
}

function images() {
  const lost = [...document.images].filter((image) => image.naturalWidth === 0);
  const recolored = [...document.images].filter((i) => getComputedStyle(i).filter !== "none");
  return unique([
    ...lost.map((image) => `image not shown: ${image.getAttribute("src")}`),
    ...recolored.map((image) => `image recolored: ${image.getAttribute("src")}`),
  ]);
}

// Addresses of the figures that are files of their own.
function figures() {
  const drawn = [...document.querySelectorAll("figure img, .cell_output img")];
  const shown = drawn.filter((image) => image.naturalWidth > 0);
  return unique(shown.map((image) => image.src).filter((src) => src.startsWith("file:")));
}

// How far to the right a text reaches, which may be farther than its element does.
function reach(element) {
  if (element.localName === "mjx-container") return element.getBoundingClientRect().right;
  const contents = document.createRange();
  contents.selectNodeContents(element);
  return contents.getBoundingClientRect().right;
}

// A text may reach beyond the page if something around it scrolls, but nothing may cut it off.
function frame(element) {
  for (let around = element; around !== document.body; around = around.parentElement) {
    const { overflowX } = getComputedStyle(around);
    if (/auto|scroll/.test(overflowX)) return Infinity;
    if (/hidden|clip/.test(overflowX)) return around.getBoundingClientRect().right;
  }
  return document.documentElement.clientWidth;
}

function overflow() {
  const width = document.documentElement.clientWidth;
  const needed = document.documentElement.scrollWidth;
  const found = [];
  for (const [element, text] of written()) {
    if (reach(element) > frame(element) + 1)
      found.push(`too wide for a page of ${width} px: ${name(element)} ${quote(text)}`);
  }
  if (needed > width) found.push(`a page of ${width} px scrolls sideways: it needs ${needed} px`);
  return unique(found);
}

// On a desktop neither code nor a formula has to be pushed aside to be read.
function scrolling() {
  const blocks = [...document.querySelectorAll(".cell_input pre, div.math")];
  const wide = blocks.filter((block) => block.scrollWidth > block.clientWidth + 1);
  return wide.map((block) => `scrolls on a desktop: ${quote(block.textContent)}`);
}

// Contrast as in WCAG 2: colors are painted on a canvas to get their numbers.

const canvas = Object.assign(document.createElement("canvas"), { width: 1, height: 1 });
const brush = canvas.getContext("2d", { willReadFrequently: true });
const painted = new Map();

function numbers(color) {
  if (!painted.has(color)) {
    brush.clearRect(0, 0, 1, 1);
    brush.fillStyle = color;
    brush.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = brush.getImageData(0, 0, 1, 1).data;
    painted.set(color, [r, g, b, a / 255]);
  }
  return painted.get(color);
}

function over([r, g, b, a], below) {
  return [r, g, b].map((value, i) => a * value + (1 - a) * below[i]);
}

function background(element) {
  if (element === null) return [255, 255, 255];
  const color = numbers(getComputedStyle(element).backgroundColor);
  return color[3] === 1 ? color.slice(0, 3) : over(color, background(element.parentElement));
}

function luminance(color) {
  const [r, g, b] = color.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(element) {
  const below = background(element);
  const color = [...numbers(getComputedStyle(element).color)];
  for (let around = element; around; around = around.parentElement)
    color[3] *= Number(getComputedStyle(around).opacity);
  const [dark, light] = [over(color, below), below].map(luminance).sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

function paleness(least) {
  const found = new Map();
  for (const [element, text] of written()) {
    const ratio = contrast(element);
    const sentence = `contrast ${ratio.toFixed(1)} below ${least}: ${name(element)}`;
    if (ratio < least && !found.has(sentence)) found.set(sentence, text);
    const thin = `letters too thin: ${name(element)}`;
    if (getComputedStyle(element).fontWeight < 400 && !found.has(thin)) found.set(thin, text);
  }
  const theme = document.documentElement.dataset.theme ?? "light";
  return [...found].map(([sentence, text]) => `${sentence} ${quote(text)} (${theme})`);
}

function unfold() {
  for (const details of document.querySelectorAll("details")) details.open = true;
  for (const button of document.querySelectorAll(".toggle-button-hidden")) button.click();
}
