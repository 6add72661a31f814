DROP TABLE rejected_lines;
DROP TABLE readings;
DROP TABLE batches;
