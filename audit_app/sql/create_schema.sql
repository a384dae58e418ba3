-- Nobody but the owner may look into the trail until somebody grants it.
CREATE SCHEMA IF NOT EXISTS @schema@;
REVOKE ALL ON SCHEMA @schema@ FROM PUBLIC;
