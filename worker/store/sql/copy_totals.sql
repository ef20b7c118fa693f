-- Columns in the order of batch_totals.
COPY batch_totals FROM STDIN
