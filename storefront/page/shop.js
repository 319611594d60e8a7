// The shop: who buys what, and paying. What follows is in thanks.js.

import { get, post, tried } from "./api.js";
import { combobox } from "./combobox.js";
import { $, category, copy, count, date, element, fill, money, paint, price, total } from "./dom.js";
import { confirm } from "./thanks.js";

const AGAIN = 1000; // ms until it asks again whether the shop is open
const shop = {
  user: null, // null for a guest
  basket: new Map(), // item id → line {item_id, title, category, price, quantity}
  order: crypto.randomUUID(), // kept until it is paid: what is sent again under it counts once
  clock: 0, // the shop's time minus this page's, seconds
};
const now = () => Math.floor(shop.clock + performance.now() / 1000);

// Who

async function welcome(user, events) {
  shop.user = user;
  $("customer").textContent = user === null ? "A guest" : `Household ${user}`;
  $("known").textContent = user === null ? "" : `${count(events, "event", "events")} known`;
  $("guest").hidden = user === null;
  await remember();
}

async function remember() {
  const user = shop.user;
  const orders = user === null ? [] : await get("/shop/orders", { user_id: user, limit: 4 });
  if (user !== shop.user) return; // somebody else came meanwhile
  $("past").hidden = !orders.length;
  $("orders").replaceChildren(...orders.map(pastOrder));
}

function pastOrder({ ts, lines }) {
  const more = lines.length > 3 ? ` and ${count(lines.length - 3, "more line", "more lines")}` : "";
  const what = lines.slice(0, 3).map((line) => line.title).join(", ") + more;
  const made = copy("order", { when: date(ts), total: money(total(lines)), what });
  made.querySelector("button").addEventListener("click", () => {
    shop.basket.clear();
    for (const line of lines) put(line, line.quantity);
  });
  return made;
}

// What

function put(item, quantity = 1) {
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
  // Lines that are there already are kept, and with them the focus.
  const there = new Map([...$("lines").children].map((row) => [row.dataset.item, row]));
  for (const line of lines) {
    const row = there.get(line.item_id) ?? basketLine(line);
    there.delete(line.item_id);
    const each = line.quantity === 1 ? "" : `${price(line.price)} each`;
    fill(row, { title: line.title, each, price: money(line.price * line.quantity) });
    row.querySelector(".quantity").value = line.quantity;
    if (!row.isConnected) $("lines").append(row);
  }
  for (const gone of there.values()) gone.remove();
  $("empty").hidden = lines.length > 0;
  $("total").textContent = money(total(lines));
  $("pay").disabled = !lines.length;
}

function basketLine({ item_id, title }) {
  const row = copy("line");
  const find = (part, label) => {
    const found = row.querySelector(part);
    found.setAttribute("aria-label", `${label} ${title}`);
    return found;
  };
  const line = () => shop.basket.get(item_id);
  const leave = () => {
    setQuantity(line(), 0);
    $("item").focus(); // what had the focus is gone
  };
  row.dataset.item = item_id;
  find(".less", "One less of").addEventListener("click", () => {
    if (line().quantity > 1) setQuantity(line(), line().quantity - 1);
    else leave();
  });
  find(".plus", "One more of").addEventListener("click", () => setQuantity(line(), line().quantity + 1));
  find(".quantity", "Quantity of").addEventListener("change", (event) =>
    setQuantity(line(), event.target.valueAsNumber),
  );
  find(".remove", "Remove").addEventListener("click", leave);
  return row;
}

function popularItem(item) {
  const made = copy("popular", { title: item.title, price: price(item.price) });
  paint(made.querySelector(".tile"), item);
  made.querySelector("button").setAttribute("aria-label", `Put ${item.title} into the basket`);
  made.querySelector("button").addEventListener("click", () => put(item));
  return made;
}

// Paying

async function pay() {
  const lines = [...shop.basket.values()];
  const order = { id: shop.order, user: shop.user, ts: now(), lines };
  $("pay").disabled = true;
  const paid = await tried(async () => {
    if (order.user === null) return; // nothing is remembered of guests
    const basket = lines.map(({ item_id, quantity, price }) => ({ item_id, quantity, price }));
    await post("/v1/checkouts", { user_id: order.user, order_id: order.id, ts: order.ts, basket });
  });
  $("pay").disabled = false;
  if (!paid) return;
  shop.order = crypto.randomUUID();
  shop.basket.clear();
  showBasket();
  $("shop").hidden = true;
  await confirm(order, now);
}

async function back() {
  $("thanks").hidden = true;
  $("shop").hidden = false;
  $("household").focus();
  await tried(remember);
}

// Opening

async function open() {
  const about = await get("/shop/about");
  shop.clock = about.now - performance.now() / 1000;
  $("today").textContent = `It is ${date(about.now)} here, where the shop's data ends.`;
  const items = count(about.items, "item", "items");
  const households = count(about.households, "household", "households");
  $("about").textContent = `${items}, ${households}. Bundle ${about.bundle_version}.`;
  $("took").dataset.deadline = about.deadline_ms;
  const popular = await get("/shop/items", { limit: 12 });
  $("popular").replaceChildren(...popular.map(popularItem));
}

async function opened() {
  if (!(await tried(open))) setTimeout(opened, AGAIN); // the bundle is still being loaded
}

const found = (path, parameter) => async (text) => {
  let answer = [];
  await tried(async () => (answer = await get(path, { [parameter]: text })));
  return answer;
};

combobox($("household"), {
  ask: found("/shop/households", "prefix"),
  show: ({ user_id, events }) => [
    element("span", `Household ${user_id}`, "title"),
    element("span", count(events, "event", "events"), "soft"),
  ],
  pick: ({ user_id, events }) => tried(() => welcome(user_id, events)),
});
combobox($("item"), {
  ask: found("/shop/items", "q"),
  show: (item) => [
    element("span", item.title, "title"),
    element("span", category(item.category), "soft"),
    element("span", price(item.price), "price"),
  ],
  pick: (item) => put(item),
});
$("guest").addEventListener("click", () => {
  tried(() => welcome(null, 0));
  $("household").focus(); // what had the focus is gone
});
$("pay").addEventListener("click", pay);
$("back").addEventListener("click", back);
opened();
