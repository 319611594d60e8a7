// The order confirmation: the receipt, six more items, what is done with them, and how long they took.

import { post, tried } from "./api.js";
import {
  $, category, copy, count, date, element, fill, money, ms, paint, percent, price, total,
} from "./dom.js";

const WHY = {
  ann: "near your taste",
  buy_again: "bought before",
  co_purchase: "goes with your order",
  category: "bestseller of its kind",
  popularity: "popular",
  recency: "new",
  collaborative: "liked by people like you",
};
let now; // the shop's clock
let order; // {id, user, ts, lines}
let request; // id of the slate that is shown
let open; // the card whose product is shown

/** Show that an order was paid, and six more items. */
export async function confirm(paid, clock) {
  [order, now] = [paid, clock];
  $("thanks-title").textContent = order.user === null ? "Thank you" : `Thank you, household ${order.user}`;
  $("paid").textContent = `Order ${order.id.slice(0, 8)} was paid on ${date(order.ts)}.`;
  $("log").replaceChildren();
  showReceipt();
  $("thanks").hidden = false;
  $("thanks-title").focus();
  await recommend();
}

function showReceipt() {
  const rows = order.lines.map((line) =>
    copy("receipt", {
      quantity: `${line.quantity} ×`,
      title: line.title,
      price: money(line.price * line.quantity),
    }),
  );
  $("receipt").replaceChildren(...rows);
  $("paid-total").textContent = money(total(order.lines));
}

// Six more

async function recommend() {
  $("slate").replaceChildren();
  $("slate-status").textContent = "Looking for six more …";
  $("how").hidden = $("again").hidden = true;
  const basket = order.lines.map(({ item_id, quantity, price }) => ({ item_id, quantity, price }));
  const asked = { user_id: order.user, order_id: order.id, ts: order.ts, basket };
  const answered = await tried(async () => showSlate(await post("/v1/recommendations", asked)));
  if (!answered) $("slate-status").textContent = "They could not be found just now. Your order is safe.";
  $("again").hidden = answered;
}

function showSlate(slate) {
  request = slate.request_id;
  $("slate").replaceChildren(...slate.items.map((item) => card(item, slate.tier)));
  $("slate-status").textContent = `${count(slate.items.length, "item", "items")} to add to your order.`;
  showTimings(slate);
}

function words(item) {
  const { title, item_id } = item;
  return {
    title,
    item_id,
    category: category(item.category),
    price: price(item.price),
    click: percent(item.click),
    purchase: percent(item.purchase),
    value: item.value === null ? "–" : money(item.value),
  };
}

const reason = (source) => WHY[source] ?? source;

/** What put it here: a ranked slate is topped up with items of which nothing was predicted. */
const tierOf = (item, tier) => (tier === "ranked" && item.click === null ? item.sources[0] : tier);

function card(item, tier) {
  const made = copy("card", { ...words(item), tier: tierOf(item, tier) });
  made.dataset.item = item.item_id;
  paint(made.querySelector(".tile"), item);
  const chips = item.sources.map((source) => {
    const chip = element("li", reason(source));
    chip.dataset.source = chip.title = source;
    return chip;
  });
  made.querySelector(".why").replaceChildren(...chips);
  const add = made.querySelector(".add");
  add.setAttribute("aria-label", `Add ${item.title} to the order`);
  add.addEventListener("click", () => buy(made, item));
  made.querySelector(".open").addEventListener("click", () => look(made, item));
  return made;
}

// Clicks and purchases

async function look(made, item) {
  open = [made, item];
  fill($("product"), words(item));
  paint($("product").querySelector(".tile"), item);
  const reasons = item.sources.map((source) => element("li", `${reason(source)} (${source})`));
  $("product").querySelector(".reasons").replaceChildren(...reasons);
  $("product").querySelector(".add").disabled = made.classList.contains("bought");
  $("product").showModal();
  if (!made.classList.contains("clicked")) {
    made.classList.add("clicked");
    const told = await tried(() => feedback("click", item));
    made.classList.toggle("clicked", told);
  }
}

async function buy(made, item) {
  const button = made.querySelector(".add");
  button.disabled = true;
  const bought = await tried(async () => {
    const line = { item_id: item.item_id, quantity: 1, price: item.price };
    if (order.user !== null) {
      const order_id = `${order.id}+${item.item_id}`;
      const ts = Math.max(now(), order.ts + 1); // what is bought in one second is one order
      await post("/v1/checkouts", { user_id: order.user, order_id, ts, basket: [line] });
    }
    await feedback("purchase", item, item.price);
    order.lines.push({ ...line, title: item.title });
  });
  button.disabled = bought;
  if (!bought) return;
  made.classList.add("bought");
  button.textContent = "In your order ✓";
  showReceipt();
}

async function feedback(kind, item, value = null) {
  const told = { kind, request_id: request, item_id: item.item_id, ts: now(), user_id: order.user, value };
  await post("/v1/feedback", told);
  $("log").append(element("li", `${kind} of ${item.title} noted`));
}

// How long it took

function showTimings({ timings, tier, reason, request_id, bundle_version }) {
  const { total: whole, queue = 0, ...stages } = timings;
  const rest = whole - Object.values(stages).reduce((sum, time) => sum + time, 0);
  const parts = Object.entries({ queue, ...stages, "all else": Math.max(rest, 0) });
  $("took").textContent = `${ms(whole + queue)} of the ${$("took").dataset.deadline} ms it may take.`;
  const drawn = parts.map(([, time]) => {
    const part = element("span", "");
    part.style.flexGrow = time;
    return part;
  });
  $("bar").replaceChildren(...drawn);
  $("stages").replaceChildren(...parts.map(([stage, time]) => pair(stage.replace("_", " "), ms(time))));
  const facts = { tier, request: request_id, bundle: bundle_version, ...(reason && { reason }) };
  $("facts").replaceChildren(...Object.entries(facts).map(([name, value]) => pair(name, value)));
  $("how").hidden = false;
}

function pair(name, value) {
  const made = document.createElement("div");
  made.append(element("dt", name), element("dd", value));
  return made;
}

$("again").addEventListener("click", recommend);
$("product").querySelector(".close").addEventListener("click", () => $("product").close());
$("product").querySelector(".add").addEventListener("click", () => {
  $("product").close(); // a problem would lie behind it
  buy(...open);
});
