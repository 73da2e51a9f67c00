SELECT site, meter, TIMESTAMPTZ '2024-02-20 00:00:00+00' AS event_timestamp, customer_kind, contracted_w FROM customers
