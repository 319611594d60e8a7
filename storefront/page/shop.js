// The shop: customer, basket and payment. The order confirmation is in thanks.js.

import { get, post, reportProblems } from "./api.js";
import { combobox } from "./combobox.js";
import {
  $, categoryLabel, cloneTemplate, fillText, formatCount, formatDate, formatMoney, formatPrice, orderTotal,
  paintTile, textElement,
} from "./dom.js";
import { showConfirmation } from "./thanks.js";

const RETRY_MS = 1000; // while the service loads the bundle
const shop = {
  userId: null, // null for a guest
  basket: new Map(), // item id → line {item_id, title, category, price, quantity}
  orderId: crypto.randomUUID(), // kept until the order is paid: a repeated request counts once
  clockOffset: 0, // the shop's time minus this page's, seconds
};
const now = () => Math.floor(shop.clockOffset + performance.now() / 1000);

// Customer

async function selectCustomer(userId, events) {
  shop.userId = userId;
  $("customer").textContent = userId === null ? "A guest" : `Household ${userId}`;
  $("known").textContent = userId === null ? "" : `${formatCount(events, "event", "events")} known`;
  $("guest").hidden = userId === null;
  await loadPastOrders();
}

async function loadPastOrders() {
  const userId = shop.userId;
  const orders = userId === null ? [] : await get("/shop/orders", { user_id: userId, limit: 4 });
  if (userId !== shop.userId) return; // another customer was selected meanwhile
  $("past").hidden = !orders.length;
  $("orders").replaceChildren(...orders.map(pastOrderElement));
}

function pastOrderElement({ ts, lines }) {
  const hidden = lines.length - 3;
  const suffix = hidden > 0 ? ` and ${formatCount(hidden, "more line", "more lines")}` : "";
  const titles = lines.slice(0, 3).map((line) => line.title).join(", ") + suffix;
  const total = formatMoney(orderTotal(lines));
  const element = cloneTemplate("order", { when: formatDate(ts), total, what: titles });
  element.querySelector("button").addEventListener("click", () => {
    shop.basket.clear();
    for (const line of lines) addToBasket(line, line.quantity);
  });
  return element;
}

// Basket

function addToBasket(item, quantity = 1) {
  const line = shop.basket.get(item.item_id) ?? { ...item, quantity: 0 };
  line.quantity += quantity;
  shop.basket.set(item.item_id, line);
  showBasket();
}

function setQuantity(line, quantity) {
  line.quantity = quantity;
  if (!(quantity > 0)) shop.basket.delete(line.item_id);
  showBasket();
}

function showBasket() {
  const lines = [...shop.basket.values()];
  // Existing rows are kept, and with them the focus.
  const staleRows = new Map([...$("lines").children].map((row) => [row.dataset.item, row]));
  for (const line of lines) {
    const row = staleRows.get(line.item_id) ?? basketLineElement(line);
    staleRows.delete(line.item_id);
    const each = line.quantity === 1 ? "" : `${formatPrice(line.price)} each`;
    fillText(row, { title: line.title, each, price: formatMoney(line.price * line.quantity) });
    row.querySelector(".quantity").value = line.quantity;
    if (!row.isConnected) $("lines").append(row);
  }
  for (const row of staleRows.values()) row.remove();
  $("empty").hidden = lines.length > 0;
  $("total").textContent = formatMoney(orderTotal(lines));
  $("pay").disabled = !lines.length;
}

function basketLineElement({ item_id, title }) {
  const row = cloneTemplate("line");
  const control = (selector, label) => {
    const element = row.querySelector(selector);
    element.setAttribute("aria-label", `${label} ${title}`);
    return element;
  };
  const line = () => shop.basket.get(item_id);
  const remove = () => {
    setQuantity(line(), 0);
    $("item").focus(); // the focused element is gone
  };
  row.dataset.item = item_id;
  control(".less", "One less of").addEventListener("click", () => {
    if (line().quantity > 1) setQuantity(line(), line().quantity - 1);
    else remove();
  });
  control(".plus", "One more of").addEventListener("click", () => setQuantity(line(), line().quantity + 1));
  control(".quantity", "Quantity of").addEventListener("change", (event) =>
    setQuantity(line(), event.target.valueAsNumber),
  );
  control(".remove", "Remove").addEventListener("click", remove);
  return row;
}

function popularItemElement(item) {
  const element = cloneTemplate("popular", { title: item.title, price: formatPrice(item.price) });
  paintTile(element.querySelector(".tile"), item);
  element.querySelector("button").setAttribute("aria-label", `Put ${item.title} into the basket`);
  element.querySelector("button").addEventListener("click", () => addToBasket(item));
  return element;
}

// Payment

async function pay() {
  const lines = [...shop.basket.values()];
  const order = { id: shop.orderId, userId: shop.userId, ts: now(), lines };
  $("pay").disabled = true;
  const isPaid = await reportProblems(async () => {
    if (order.userId === null) return; // orders of guests are not stored
    const basket = lines.map(({ item_id, quantity, price }) => ({ item_id, quantity, price }));
    await post("/v1/checkouts", { user_id: order.userId, order_id: order.id, ts: order.ts, basket });
  });
  $("pay").disabled = false;
  if (!isPaid) return;
  shop.orderId = crypto.randomUUID();
  shop.basket.clear();
  showBasket();
  $("shop").hidden = true;
  await showConfirmation(order, now);
}

async function returnToShop() {
  $("thanks").hidden = true;
  $("shop").hidden = false;
  $("household").focus();
  await reportProblems(loadPastOrders);
}

// Start

async function loadShop() {
  const about = await get("/shop/about");
  shop.clockOffset = about.now - performance.now() / 1000;
  $("today").textContent = `It is ${formatDate(about.now)} here, where the shop's data ends.`;
  const items = formatCount(about.items, "item", "items");
  const households = formatCount(about.households, "household", "households");
  $("about").textContent = `${items}, ${households}. Bundle ${about.bundle_version}.`;
  $("took").dataset.deadline = about.deadline_ms;
  const popular = await get("/shop/items", { limit: 12 });
  $("popular").replaceChildren(...popular.map(popularItemElement));
}

async function loadShopWithRetry() {
  if (!(await reportProblems(loadShop))) setTimeout(loadShopWithRetry, RETRY_MS);
}

/** A function of the text that returns the path's suggestions; none if the service has a problem. */
const suggestionsFrom = (path, parameter) => async (text) => {
  let suggestions = [];
  await reportProblems(async () => (suggestions = await get(path, { [parameter]: text })));
  return suggestions;
};

combobox($("household"), {
  suggest: suggestionsFrom("/shop/households", "prefix"),
  renderOption: ({ user_id, events }) => [
    textElement("span", `Household ${user_id}`, "title"),
    textElement("span", formatCount(events, "event", "events"), "soft"),
  ],
  onSelect: ({ user_id, events }) => reportProblems(() => selectCustomer(user_id, events)),
});
combobox($("item"), {
  suggest: suggestionsFrom("/shop/items", "q"),
  renderOption: (item) => [
    textElement("span", item.title, "title"),
    textElement("span", categoryLabel(item.category), "soft"),
    textElement("span", formatPrice(item.price), "price"),
  ],
  onSelect: (item) => addToBasket(item),
});
$("guest").addEventListener("click", () => {
  reportProblems(() => selectCustomer(null, 0));
  $("household").focus(); // the focused element is gone
});
$("pay").addEventListener("click", pay);
$("back").addEventListener("click", returnToShop);
loadShopWithRetry();
