package oversync

import (
	"context"
	"encoding/hex"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// catalog is what a service remembers of sync.table_catalog. It is never
// changed; a newer one replaces it.
type catalog struct {
	version int64
	byID    map[int32]*catalogTable  // unregistered tables too, since the log names them
	byName  map[string]*catalogTable // registered tables by "schema.table"
	names   []string                 // keys of byName, sorted
}

// catalogTable is one table as the log and clients know it.
type catalogTable struct {
	id            int32
	schema, table string
	keyColumn     string
	keyIsUUID     bool
	columns       map[string]catalogColumn
	// wirePrefix is the start of each of its rows on the wire, up to the key's value.
	wirePrefix []byte
}

// catalogColumn is one column of a registered table.
type catalogColumn struct {
	isBytea, isKey bool
	// isHidden columns must not be sent by clients; isReadOnly ones are ignored.
	isHidden, isReadOnly bool
}

// currentCatalog returns the catalog that the service remembers, and reads it
// first if there is none yet.
func (s *SyncService) currentCatalog(ctx context.Context) (*catalog, error) {
	if c := s.catalog.Load(); c != nil {
		return c, nil
	}
	return s.reloadCatalogAside(ctx, func(*catalog) bool { return true })
}

// catalogWith returns a catalog that knows the table, reading it again if the
// one remembered is too old for that.
func (s *SyncService) catalogWith(ctx context.Context, c *catalog, tableID int32) (*catalog, error) {
	if c.byID[tableID] != nil {
		return c, nil
	}
	c, err := s.reloadCatalogAside(ctx, func(c *catalog) bool { return c.byID[tableID] != nil })
	if err != nil {
		return nil, err
	}
	if c.byID[tableID] == nil {
		return nil, fmt.Errorf("the log names table_id %d, which sync.table_catalog does not have", tableID)
	}
	return c, nil
}

// reloadCatalogAside reads the catalog for operations that stream rows, and so
// hold a connection of the pool already: if each waited for a second one, those
// that have them all would wait for each other. It takes a connection of its own,
// one at a time, and none where somebody else has read what suffices meanwhile.
func (s *SyncService) reloadCatalogAside(ctx context.Context, suffices func(*catalog) bool) (*catalog, error) {
	leave, err := s.catalogReads.enter(ctx, "")
	if err != nil {
		return nil, err
	}
	defer leave()
	if c := s.catalog.Load(); c != nil && suffices(c) {
		return c, nil
	}
	config := s.pool.Config()
	if config.BeforeConnect != nil {
		if err := config.BeforeConnect(ctx, config.ConnConfig); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.ConnConfig)
	if err != nil {
		return nil, fmt.Errorf("read the catalog of registered tables: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	if config.AfterConnect != nil {
		if err := config.AfterConnect(ctx, conn); err != nil {
			return nil, err
		}
	}
	return s.readCatalog(ctx, conn)
}

// reloadCatalog reads the catalog through the pool.
func (s *SyncService) reloadCatalog(ctx context.Context) (*catalog, error) {
	return s.readCatalog(ctx, s.pool)
}

// txBeginner is a connection or a pool.
type txBeginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// readCatalog reads the catalog, all of it as of one moment.
func (s *SyncService) readCatalog(ctx context.Context, conn txBeginner) (*catalog, error) {
	c := &catalog{byID: make(map[int32]*catalogTable), byName: make(map[string]*catalogTable)}
	err := pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		var err error
		if c.version, err = s.queries.CatalogVersion(ctx, tx); err != nil {
			return err
		}
		tables, err := s.queries.CatalogTables(ctx, tx)
		if err != nil {
			return err
		}
		for _, t := range tables {
			entry := &catalogTable{
				id: t.TableID, schema: t.SchemaName, table: t.TableName,
				keyColumn: t.KeyColumn, keyIsUUID: t.KeyType == "uuid",
				columns: make(map[string]catalogColumn),
			}
			entry.wirePrefix = append(entry.wirePrefix, `{"schema":`...)
			entry.wirePrefix = appendQuoted(entry.wirePrefix, entry.schema)
			entry.wirePrefix = append(entry.wirePrefix, `,"table":`...)
			entry.wirePrefix = appendQuoted(entry.wirePrefix, entry.table)
			entry.wirePrefix = append(entry.wirePrefix, `,"key":{`...)
			entry.wirePrefix = appendQuoted(entry.wirePrefix, entry.keyColumn)
			entry.wirePrefix = append(entry.wirePrefix, ':')
			c.byID[entry.id] = entry
			if t.IsRegistered {
				name := entry.schema + "." + entry.table
				c.byName[name] = entry
				c.names = append(c.names, name)
			}
		}
		columns, err := s.queries.CatalogColumns(ctx, tx)
		if err != nil {
			return err
		}
		for _, column := range columns {
			if entry := c.byID[column.TableID]; entry != nil {
				entry.columns[column.ColumnName] = catalogColumn{
					isBytea: column.IsBytea, isKey: column.IsKey,
					isHidden: !column.IsSent, isReadOnly: column.IsGenerated || column.IsScope,
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read the catalog of registered tables: %w", err)
	}
	slices.Sort(c.names)
	s.catalog.Store(c)
	return c, nil
}

// appendKeyJSON appends a key of the log as the JSON string that clients know.
func (t *catalogTable) appendKeyJSON(dst, keyBytes []byte) []byte {
	if !t.keyIsUUID {
		return appendQuoted(dst, string(keyBytes))
	}
	dst = append(dst, '"')
	for i, group := range [...][2]int{{0, 4}, {4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		if i > 0 {
			dst = append(dst, '-')
		}
		dst = hex.AppendEncode(dst, keyBytes[group[0]:group[1]])
	}
	return append(dst, '"')
}

// keyString returns a key of the log as clients know it.
func (t *catalogTable) keyString(keyBytes []byte) string {
	if t.keyIsUUID && len(keyBytes) == 16 {
		return uuid.UUID(keyBytes).String()
	}
	return string(keyBytes)
}

// wireOp returns the protocol's name of an operation of the log.
func wireOp(op []byte) string {
	switch string(op) {
	case "I":
		return OpInsert
	case "U":
		return OpUpdate
	default:
		return OpDelete
	}
}
