-- The canonical tables from a shop's usual ones, in the dialect of DuckDB.
-- Change the FROM clauses and names; keep the names after AS. Then: train.py data=tables data.root=shop
--
-- Read: customers(id, city, birth_year), products(sku, name, department, section, brand, list_price, cost,
-- listed_at, active), sales(id, customer_id, paid_at, channel), sale_lines(sale_id, sku, units, unit_price,
-- returned_at), clicks(customer_id, sku, clicked_at, sale_id).

-- A row per order line, and one with a negative quantity for what was taken back.
CREATE OR REPLACE VIEW orders AS
SELECT s.id AS order_id, s.customer_id AS user_id, l.sku AS item_id, s.paid_at AS ts,
       l.units AS quantity, l.unit_price AS price, s.channel
FROM sales s JOIN sale_lines l ON l.sale_id = s.id
UNION ALL
SELECT s.id || '-return', s.customer_id, l.sku, l.returned_at, -l.units, l.unit_price, s.channel
FROM sales s JOIN sale_lines l ON l.sale_id = s.id
WHERE l.returned_at IS NOT NULL;

-- `margin` is a share of the price, from -1 to 1.
CREATE OR REPLACE VIEW items AS
SELECT sku AS item_id, name AS title, department || '/' || section AS category, brand,
       list_price AS price, (list_price - cost) / list_price AS margin, listed_at AS created_at, active AS available
FROM products;

-- Further columns are attributes, which the models read.
CREATE OR REPLACE VIEW users AS
SELECT id AS user_id, city, birth_year
FROM customers;

-- Optional. The impression log of the service has more: request ids, positions, propensities.
CREATE OR REPLACE VIEW events AS
SELECT customer_id AS user_id, sku AS item_id, clicked_at AS ts, 'click' AS kind, sale_id AS order_id
FROM clicks
WHERE customer_id IS NOT NULL;

COPY orders TO 'shop/orders.parquet';
COPY items TO 'shop/items.parquet';
COPY users TO 'shop/users.parquet';
COPY events TO 'shop/events.parquet';
