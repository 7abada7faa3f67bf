// Up to 1 024 candidates of one row.
const WG_SIZE = 256u;
const ROOM = 1024u;
