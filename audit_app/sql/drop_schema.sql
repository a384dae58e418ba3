-- CASCADE takes the triggers on the tracked tables along: they depend on the functions in here.
DROP SCHEMA IF EXISTS @schema@ CASCADE;
