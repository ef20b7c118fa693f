-- Columns in the order of batch_conversations.
COPY batch_conversations FROM STDIN
