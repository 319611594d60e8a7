// Making parts of the page. All text goes in as textContent: what a catalog says is never read as HTML.

export const $ = (id) => document.getElementById(id);

/** A copy of a template's element, with `values` as the text of its [data-text] elements. */
export function copy(template, values = {}) {
  const made = $(`${template}-template`).content.firstElementChild.cloneNode(true);
  fill(made, values);
  return made;
}

export function fill(element, values) {
  for (const part of element.querySelectorAll("[data-text]")) {
    part.textContent = values[part.dataset.text] ?? "";
  }
}

export function element(name, text, className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

/** A picture's stand-in: the first letters of the title, in the colour of the category. */
export function paint(tile, item) {
  let hue = 0;
  for (const letter of category(item.category)) hue = (hue * 31 + letter.codePointAt(0)) % 360;
  tile.style.setProperty("--hue", hue);
  tile.textContent = item.title.slice(0, 2);
}

const cents = new Intl.NumberFormat("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const tiny = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });
const whole = new Intl.NumberFormat("en");
const share = new Intl.NumberFormat("en", { style: "percent", maximumSignificantDigits: 2 });
const day = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeZone: "UTC" });

/** An amount. A unit of fuel costs less than a cent; 0 stands for an unknown price. */
export const money = (amount) => (amount > 0 && amount < 0.01 ? tiny : cents).format(amount);
export const price = (amount) => (amount > 0 ? money(amount) : "–");
export const percent = (chance) => (chance === null ? "–" : share.format(chance));
export const count = (number, one, many) => `${whole.format(number)} ${number === 1 ? one : many}`;
export const date = (seconds) => day.format(new Date(1000 * seconds));
export const ms = (time) => `${time.toFixed(time < 10 ? 1 : 0)} ms`;

/** GROCERY/FLUID MILK PRODUCTS/FLUID MILK WHITE ONLY → Grocery › Fluid milk products */
export function category(path) {
  const parts = path.split("/").slice(0, 2).filter(Boolean);
  return parts.map((part) => part[0].toUpperCase() + part.slice(1).toLowerCase()).join(" › ");
}

export const total = (lines) => lines.reduce((sum, line) => sum + line.price * line.quantity, 0);
