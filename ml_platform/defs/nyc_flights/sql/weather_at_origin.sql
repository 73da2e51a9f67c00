-- The weather at each airport as last reported. Hundredths of an inch are summed as integers, so that the
-- sum is the same whatever else is in the batch. Of observations reported at once, the newest counts.
WITH reports AS (
    FROM weather
    QUALIFY row_number() OVER (PARTITION BY origin, known_at ORDER BY observed_at DESC) = 1
)
SELECT
    origin,
    known_at AS event_timestamp,
    temp_f,
    dewp_f,
    humid_pct,
    wind_dir_degrees,
    wind_speed_mph,
    wind_gust_mph,
    precip_inches,
    pressure_mb,
    visibility_miles,
    (sum(round(precip_inches * 100)::BIGINT) OVER last_3h)::BIGINT / 100.0::DOUBLE AS precip_inches_3h,
    min(visibility_miles) OVER last_3h AS visibility_miles_min_3h
FROM reports
WINDOW last_3h AS (
    PARTITION BY origin ORDER BY known_at
    RANGE BETWEEN INTERVAL '10799.999999 seconds' PRECEDING AND CURRENT ROW
)
