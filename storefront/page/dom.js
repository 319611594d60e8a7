// Parts of the page. All text is set as textContent, so that a catalog's text is never parsed as HTML.

export const $ = (id) => document.getElementById(id);

/** A copy of a template's element, with `values` as the text of its [data-text] elements. */
export function cloneTemplate(template, values = {}) {
  const clone = $(`${template}-template`).content.firstElementChild.cloneNode(true);
  fillText(clone, values);
  return clone;
}

export function fillText(element, values) {
  for (const part of element.querySelectorAll("[data-text]")) {
    part.textContent = values[part.dataset.text] ?? "";
  }
}

export function textElement(name, text, className = "") {
  const element = document.createElement(name);
  element.textContent = text;
  element.className = className;
  return element;
}

/** In place of a picture: the first letters of the title, in the colour of the category. */
export function paintTile(tile, item) {
  let hue = 0;
  for (const letter of categoryLabel(item.category)) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  tile.style.setProperty("--hue", hue);
  tile.textContent = item.title.slice(0, 2);
}

const centsFormat = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const smallAmountFormat = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const integerFormat = new Intl.NumberFormat("en");
const percentFormat = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });
const dateFormat = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeZone: "UTC" });

/** An amount; a unit of fuel costs less than a cent. */
export const formatMoney = (amount) =>
  (amount > 0 && amount < 0.01 ? smallAmountFormat : centsFormat).format(amount);
/** A price; 0 is an unknown price. */
export const formatPrice = (amount) => (amount > 0 ? formatMoney(amount) : "–");
export const formatPercent = (share) => (share === null ? "–" : percentFormat.format(share));
export const formatCount = (count, singular, plural) =>
  `${integerFormat.format(count)} ${count === 1 ? singular : plural}`;
export const formatDate = (seconds) => dateFormat.format(new Date(1000 * seconds));
export const formatMs = (milliseconds) => `${milliseconds.toFixed(milliseconds < 10 ? 1 : 0)} ms`;

/** GROCERY/FLUID MILK PRODUCTS/FLUID MILK WHITE ONLY → Grocery › Fluid milk products */
export function categoryLabel(path) {
  const levels = path.split("/").slice(0, 2).filter(Boolean);
  return levels.map((level) => level[0].toUpperCase() + level.slice(1).toLowerCase()).join(" › ");
}

export const orderTotal = (lines) => lines.reduce((sum, line) => sum + line.price * line.quantity, 0);
