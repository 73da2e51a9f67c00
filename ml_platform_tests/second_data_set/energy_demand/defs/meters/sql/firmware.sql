SELECT site, meter, known_at AS event_timestamp, firmware FROM installations
