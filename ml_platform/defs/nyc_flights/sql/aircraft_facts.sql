-- The register of aircraft. It is reference data, delivered once: known from before the first flight.
SELECT
    tailnum,
    TIMESTAMPTZ '2012-12-31 00:00:00+00' AS event_timestamp,
    manufactured_year AS aircraft_manufactured_year,
    manufacturer AS aircraft_manufacturer,
    engine AS aircraft_engine,
    engines AS aircraft_engines,
    seats AS aircraft_seats
FROM planes
