-- Of observations published at once, the newest.
SELECT site, known_at AS event_timestamp, temperature_c
FROM weather
QUALIFY row_number() OVER (PARTITION BY site, known_at ORDER BY observed_at DESC) = 1
