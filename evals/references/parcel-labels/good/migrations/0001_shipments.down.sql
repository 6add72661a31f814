-- Deletes all shipments: copy DATA_DIR/shipments.db first.
DROP TABLE shipments;
