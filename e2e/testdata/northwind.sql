-- An application's database as it stood before anybody thought of sync: the tables of the Northwind sample, with data made
-- by generate_series. northwind.orders sets the size: 50,000 orders make 200,000 rows.
--
-- Beside the sample's tables: visits, with uuid keys, as a later version of the application would have them; and a
-- customer belongs to one employee, who visits it.

CREATE TABLE region (
    region_id          smallint NOT NULL PRIMARY KEY,
    region_description varchar(60) NOT NULL
);

CREATE TABLE territories (
    territory_id          varchar(20) NOT NULL PRIMARY KEY,
    territory_description varchar(60) NOT NULL,
    region_id             smallint NOT NULL REFERENCES region
);

CREATE TABLE employees (
    employee_id integer NOT NULL PRIMARY KEY,
    last_name   varchar(20) NOT NULL,
    first_name  varchar(10) NOT NULL,
    title       varchar(30),
    hire_date   date,
    reports_to  integer REFERENCES employees
);

CREATE TABLE employee_territories (
    employee_id  integer NOT NULL REFERENCES employees,
    territory_id varchar(20) NOT NULL REFERENCES territories,
    PRIMARY KEY (employee_id, territory_id)
);

CREATE TABLE categories (
    category_id   smallint NOT NULL PRIMARY KEY,
    category_name varchar(15) NOT NULL,
    description   text
);

CREATE TABLE suppliers (
    supplier_id  smallint NOT NULL PRIMARY KEY,
    company_name varchar(40) NOT NULL,
    country      varchar(15)
);

CREATE TABLE products (
    product_id    integer NOT NULL PRIMARY KEY,
    product_name  varchar(40) NOT NULL,
    supplier_id   smallint REFERENCES suppliers,
    category_id   smallint REFERENCES categories,
    unit_price    numeric(10, 2),
    discontinued  boolean NOT NULL DEFAULT false
);

CREATE TABLE shippers (
    shipper_id   smallint NOT NULL PRIMARY KEY,
    company_name varchar(40) NOT NULL,
    phone        varchar(24)
);

CREATE TABLE customers (
    customer_id   varchar(5) NOT NULL PRIMARY KEY,
    employee_id   integer NOT NULL REFERENCES employees,
    company_name  varchar(40) NOT NULL,
    contact_name  varchar(30),
    contact_title varchar(30),
    address       varchar(60),
    city          varchar(15),
    postal_code   varchar(10),
    country       varchar(15),
    phone         varchar(24)
);
CREATE INDEX customers_employee_id ON customers (employee_id);
CREATE UNIQUE INDEX customers_company_name ON customers (lower(company_name));

CREATE TABLE orders (
    order_id      serial NOT NULL PRIMARY KEY,
    customer_id   varchar(5) NOT NULL REFERENCES customers,
    employee_id   integer REFERENCES employees,
    order_date    date NOT NULL DEFAULT current_date,
    required_date date,
    shipped_date  date,
    ship_via      smallint REFERENCES shippers,
    freight       numeric(10, 2) NOT NULL DEFAULT 0,
    ship_name     varchar(40),
    ship_city     varchar(15)
);
CREATE INDEX orders_customer_id ON orders (customer_id);
CREATE INDEX orders_to_be_shipped ON orders (required_date) WHERE shipped_date IS NULL;

CREATE TABLE order_details (
    order_id   integer NOT NULL REFERENCES orders ON DELETE CASCADE,
    product_id integer NOT NULL REFERENCES products,
    unit_price numeric(10, 2) NOT NULL,
    quantity   smallint NOT NULL CHECK (quantity > 0),
    discount   real NOT NULL DEFAULT 0,
    PRIMARY KEY (order_id, product_id)
);

CREATE TABLE visits (
    visit_id    uuid NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    customer_id varchar(5) NOT NULL REFERENCES customers ON DELETE CASCADE,
    planned_for timestamptz NOT NULL,
    done        boolean NOT NULL DEFAULT false,
    notes       text,
    photo       bytea,
    answers     jsonb
);
CREATE INDEX visits_customer_id ON visits (customer_id);
CREATE UNIQUE INDEX visits_one_open ON visits (customer_id) WHERE NOT done;

INSERT INTO region SELECT i, 'Region ' || i FROM generate_series(1, 4) AS i;
INSERT INTO territories SELECT lpad(i::text, 5, '0'), 'Territory ' || i, 1 + i % 4 FROM generate_series(1, 53) AS i;
INSERT INTO employees SELECT i, 'Last ' || i, 'First ' || i, 'Sales Representative', date '2020-01-01' + i, nullif(1, i) FROM generate_series(1, 9) AS i;
INSERT INTO employee_territories SELECT 1 + i % 9, lpad(i::text, 5, '0') FROM generate_series(1, 53) AS i;
INSERT INTO categories SELECT i, 'Category ' || i, 'Things of kind ' || i FROM generate_series(1, 8) AS i;
INSERT INTO suppliers SELECT i, 'Supplier ' || i, 'Norway' FROM generate_series(1, 29) AS i;
INSERT INTO products SELECT i, 'Product ' || i, 1 + i % 29, 1 + i % 8, i * 1.25, i % 10 = 0 FROM generate_series(1, 77) AS i;
INSERT INTO shippers SELECT i, 'Shipper ' || i, '(503) 555-98' || i FROM generate_series(10, 15) AS i;

INSERT INTO customers
SELECT 'C' || lpad(i::text, 4, '0'), 1 + i % 9, 'Company ' || i, 'Contact ' || i, 'Owner', i || ' Main Street', 'City ' || i % 100, lpad(i::text, 5, '0'), 'Norway', NULL
FROM generate_series(1, coalesce(nullif(current_setting('northwind.orders', true), ''), '50000')::integer / 10) AS i;

INSERT INTO orders (customer_id, employee_id, order_date, required_date, shipped_date, ship_via, freight, ship_name, ship_city)
SELECT 'C' || lpad((1 + i % (n / 10))::text, 4, '0'), 1 + i % 9, date '2020-01-01' + i % 2000, date '2020-01-15' + i % 2000,
       CASE WHEN i % 20 > 0 THEN date '2020-01-08' + i % 2000 END, 10 + i % 6, (i % 9000) / 100.0, 'Company ' || 1 + i % (n / 10), NULL
FROM (SELECT coalesce(nullif(current_setting('northwind.orders', true), ''), '50000')::integer AS n) AS size, generate_series(1, n) AS i;

INSERT INTO order_details
SELECT o.order_id, 1 + (o.order_id * 7 + line * 13) % 77, 1 + line * 2.5, 1 + o.order_id % 50, (line % 3) * 0.05
FROM orders o CROSS JOIN LATERAL generate_series(1, 2 + o.order_id % 2) AS line;

INSERT INTO visits (customer_id, planned_for, done, notes, photo, answers)
SELECT c.customer_id, timestamptz '2025-03-01 09:30:00.25+01' + v * interval '37 hours', v > 1, 'Visit ' || v, CASE WHEN v = 4 THEN '\x00ff80'::bytea END,
       jsonb_build_object('satisfied', v % 2 = 0, 'score', v + 0.50)
FROM customers c CROSS JOIN generate_series(1, 4) AS v;

ANALYZE categories, customers, employee_territories, employees, order_details, orders, products, region, shippers, suppliers, territories, visits;
