package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/oversync/oversync/e2e/device"
)

// Config says against which server and as whom the demo plays.
type Config struct {
	ServerURL string // root of a running server that has the demo schema, for example http://127.0.0.1:8080
	Token     string // bearer token of the user
	UserID    string // the user in the token, only to be printed
	// Dir is where the SQLite files go, in a new directory. Empty means a temporary one that is removed at the end.
	Dir string
	Out io.Writer // where the play is told
}

// Run plays three devices of one user: offline writes, a conflict and its merge, a delete with its cascade, a late device
// that starts from a snapshot. It fails if they do not end with the same rows. It leaves its rows in the account, and
// may be played again on the same one.
func Run(ctx context.Context, cfg Config) error {
	dir, err := os.MkdirTemp(cfg.Dir, "oversync-demo-")
	if err != nil {
		return fmt.Errorf("demo: make a directory for the devices' files: %w", err)
	}
	p := &play{Config: cfg, dir: dir}
	if err := p.run(ctx); err != nil {
		return fmt.Errorf("demo: %w", errors.Join(err, p.close()))
	}
	return p.close()
}

type play struct {
	Config
	dir     string
	devices []*named
	posts   []string // ids of this play, so that rows of an earlier one are not printed
	err     error    // of the last print
}

type named struct {
	*device.Device
	name string
}

func (p *play) close() error {
	var err error
	for _, d := range p.devices {
		err = errors.Join(err, d.Close())
	}
	if p.Dir == "" {
		err = errors.Join(err, os.RemoveAll(p.dir))
	}
	return errors.Join(err, p.err)
}

func (p *play) say(format string, args ...any) {
	if _, err := fmt.Fprintf(p.Out, format+"\n", args...); err != nil && p.err == nil {
		p.err = err
	}
}

// device adds a device with an empty file.
func (p *play) device(ctx context.Context, name string) (*named, error) {
	d, err := device.Open(ctx, device.Config{
		Path: filepath.Join(p.dir, strings.ToLower(name)+".sqlite"), BaseURL: p.ServerURL, Token: p.Token,
		SourceID: "demo-" + strings.ToLower(name) + "-" + uuid.NewString(), Tables: Tables(), Resolver: p.merge(name),
	})
	if err != nil {
		return nil, err
	}
	n := &named{Device: d, name: name}
	p.devices = append(p.devices, n)
	return n, nil
}

// merge is what an application decides about a conflict: of a post, the title that the others see and the text of this device.
func (p *play) merge(name string) device.Resolver {
	return func(_ context.Context, c device.Conflict) (device.Resolution, error) {
		if c.Table != "posts" || c.Local == nil || c.Server == nil {
			return device.TakeServer(), nil
		}
		p.say("   %s  conflict on a post: edited here on version %d, but the server has version %d", name, c.BaseVersion, c.ServerVersion)
		p.say("        here    %q / %q", c.Local["title"], c.Local["body"])
		p.say("        server  %q / %q", c.Server["title"], c.Server["body"])
		return device.Merged(device.Row{"title": c.Server["title"]}), nil
	}
}

func (p *play) run(ctx context.Context) error {
	p.say("Three devices of the user %s, with SQLite files in %s", p.UserID, p.dir)
	a, err := p.device(ctx, "A")
	if err != nil {
		return err
	}
	b, err := p.device(ctx, "B")
	if err != nil {
		return err
	}

	p.say("\n1. A is offline, and writes to its own tables with plain SQL.")
	ann, bob := uuid.NewString(), uuid.NewString()
	team, captain := uuid.NewString(), uuid.NewString()
	p.posts = []string{uuid.NewString(), uuid.NewString(), uuid.NewString()}
	err = a.exec(ctx,
		stmt(`INSERT INTO users (id, name, email) VALUES (?, 'Ann', 'ann@example.com'), (?, 'Bob', NULL)`, ann, bob),
		stmt(`INSERT INTO posts (id, author_id, title, body) VALUES (?, ?, 'On the train', 'No signal here.'),
			(?, ?, 'Packing list', 'Tent, rope.'), (?, ?, 'Farewell', 'I am leaving.')`,
			p.posts[0], ann, p.posts[1], ann, p.posts[2], bob),
		stmt(`INSERT INTO categories (id, parent_id, name) VALUES ('travel', NULL, 'Travel'), ('rail', 'travel', 'By rail') ON CONFLICT DO NOTHING`),
		stmt(`INSERT INTO files (id, post_id, name, content) VALUES (?, ?, 'view.jpg', ?), (?, ?, 'bye.txt', ?)`,
			uuid.NewString(), p.posts[0], []byte{0xff, 0xd8, 0xff, 0x00}, uuid.NewString(), p.posts[2], []byte("bye")),
		stmt(`INSERT INTO teams (id, name, captain_id) VALUES (?, 'Hikers', ?)`, team, captain),
		stmt(`INSERT INTO members (id, team_id, name) VALUES (?, ?, 'Ann'), (?, ?, 'Bob')`, captain, team, uuid.NewString(), team),
	)
	if err != nil {
		return err
	}
	if err := p.show(ctx, a, b); err != nil {
		return err
	}

	p.say("\n2. A is online: one bundle goes out, all or nothing. The server fills created_at. B syncs and has it all.")
	if err := syncAll(ctx, a, b); err != nil {
		return err
	}
	if err := p.show(ctx, a, b); err != nil {
		return err
	}
	if err := p.showPosts(ctx, b); err != nil {
		return err
	}

	p.say("\n3. Both go offline. A renames the first post. B rewrites its text, and edits the second post too.")
	err = errors.Join(
		a.exec(ctx, stmt(`UPDATE posts SET title = 'On the night train' WHERE id = ?`, p.posts[0])),
		b.exec(ctx, stmt(`UPDATE posts SET body = 'Signal is back.' WHERE id = ?`, p.posts[0]),
			stmt(`UPDATE posts SET body = 'Tent, rope, stove.' WHERE id = ?`, p.posts[1])))
	if err != nil {
		return err
	}
	p.say("   A syncs first. Then B: its push is refused whole, its application merges, and it is sent again.")
	if err := syncAll(ctx, a, b, a); err != nil {
		return err
	}
	if err := errors.Join(p.showPosts(ctx, a), p.showPosts(ctx, b)); err != nil {
		return err
	}

	p.say("\n4. B deletes Bob. His post and its file go with him, here and everywhere.")
	if err := b.exec(ctx, stmt(`DELETE FROM users WHERE id = ?`, bob)); err != nil {
		return err
	}
	if err := syncAll(ctx, b, a); err != nil {
		return err
	}
	if err := p.show(ctx, a, b); err != nil {
		return err
	}

	p.say("\n5. C is new. It does not replay history, it starts from a snapshot, and follows from there.")
	c, err := p.device(ctx, "C")
	if err != nil {
		return err
	}
	if err := c.Rebuild(ctx); err != nil {
		return fmt.Errorf("device C: %w", err)
	}
	if err := syncAll(ctx, c); err != nil {
		return err
	}
	if err := p.show(ctx, c); err != nil {
		return err
	}
	return p.compare(ctx)
}

type statement struct {
	query string
	args  []any
}

func stmt(query string, args ...any) statement { return statement{query, args} }

// exec is the application at work: one transaction on the device's own file.
func (d *named) exec(ctx context.Context, statements ...statement) error {
	tx, err := d.DB().BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	for _, s := range statements {
		if _, err := tx.ExecContext(ctx, s.query, s.args...); err != nil {
			return fmt.Errorf("device %s: %w", d.name, err)
		}
	}
	return tx.Commit()
}

func syncAll(ctx context.Context, devices ...*named) error {
	for _, d := range devices {
		if err := d.Sync(ctx); err != nil {
			return fmt.Errorf("device %s: %w", d.name, err)
		}
	}
	return nil
}

// show prints how many rows of each table the devices hold.
func (p *play) show(ctx context.Context, devices ...*named) error {
	for _, d := range devices {
		var counts []string
		for _, t := range Tables() {
			rows, err := d.Rows(ctx, t.Name)
			if err != nil {
				return err
			}
			counts = append(counts, fmt.Sprintf("%s %d", t.Name, len(rows)))
		}
		st, err := d.State(ctx)
		if err != nil {
			return err
		}
		p.say("   %s  %s   (to push: %d, at bundle %d)", d.name, strings.Join(counts, "  "), st.DirtyRows+st.OutboxRows, st.LastBundleSeq)
	}
	return nil
}

// showPosts prints the posts of this play on a device.
func (p *play) showPosts(ctx context.Context, d *named) error {
	rows, err := d.Rows(ctx, "posts")
	if err != nil {
		return err
	}
	for _, id := range p.posts {
		i := slices.IndexFunc(rows, func(r device.Row) bool { return r["id"] == id })
		if i >= 0 {
			p.say("   %s  %-20v %-20v %v", d.name, rows[i]["title"], rows[i]["body"], rows[i]["created_at"])
		}
	}
	return nil
}

// compare checks that all devices hold the same.
func (p *play) compare(ctx context.Context) error {
	total := 0
	for _, t := range Tables() {
		first, err := p.devices[0].Dump(ctx, t.Name)
		if err != nil {
			return err
		}
		total += len(first)
		for _, d := range p.devices[1:] {
			other, err := d.Dump(ctx, t.Name)
			if err != nil {
				return err
			}
			if !slices.Equal(first, other) {
				return fmt.Errorf("devices %s and %s differ in %s: look at their files in %s with Dir set", p.devices[0].name, d.name, t.Name, p.dir)
			}
		}
	}
	p.say("\nAll three devices hold the same %d rows.", total)
	return nil
}
