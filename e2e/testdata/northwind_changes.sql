-- What has to change in northwind.sql before its tables can be synced: keys must be one column of type text or uuid, since
-- devices make keys on their own.

-- The keys of customers are varchar(5). As text they are what they were: PostgreSQL rewrites nothing.
ALTER TABLE customers ALTER COLUMN customer_id TYPE text;
ALTER TABLE orders ALTER COLUMN customer_id TYPE text;
ALTER TABLE visits ALTER COLUMN customer_id TYPE text;

-- The keys of orders come from a sequence, which a device does not have. As text the numbers stay, the server goes on
-- counting, and a device takes a UUID.
ALTER TABLE order_details DROP CONSTRAINT order_details_order_id_fkey;
ALTER TABLE orders
    ALTER COLUMN order_id DROP DEFAULT,
    ALTER COLUMN order_id TYPE text,
    ALTER COLUMN order_id SET DEFAULT nextval('orders_order_id_seq')::text;
ALTER TABLE order_details
    ALTER COLUMN order_id TYPE text,
    ADD CONSTRAINT order_details_order_id_fkey FOREIGN KEY (order_id) REFERENCES orders ON DELETE CASCADE,
    -- The key of a line is two columns: it gets one beside them.
    ADD COLUMN order_detail_id uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE;
