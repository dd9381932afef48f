-- An employee syncs the customers that belong to it, with their orders, order lines and visits. The catalogue of products
-- and the list of employees stay outside.
SELECT sync.register_table('public.customers', scope => 'employee_id', policy => 'capture', external_references => '{public.employees}');
SELECT sync.register_table('public.orders', scope_via => 'customer_id', on_scope_change => 'move', policy => 'capture',
                           external_references => '{public.employees, public.shippers}');
SELECT sync.register_table('public.order_details', sync_key => 'order_detail_id', scope_via => 'order_id', on_scope_change => 'move', policy => 'capture',
                           external_references => '{public.products}');
SELECT sync.register_table('public.visits', scope_via => 'customer_id', on_scope_change => 'move', policy => 'capture');
