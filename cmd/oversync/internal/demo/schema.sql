-- The demo schema: what an application's tables look like when they sync. Running it again changes nothing.
--
-- Every table has the hidden scope column, and it leads every key: rows of one user never meet those of another.
-- Foreign keys carry it too and are deferrable, because a bundle is consistent at its end, not after each row.

create schema if not exists demo;

create table if not exists demo.users (
    _sync_scope_id text not null,
    id             uuid not null,
    name           text not null check (name <> ''),
    email          text,
    primary key (_sync_scope_id, id)
);

create table if not exists demo.posts (
    _sync_scope_id text not null,
    id             uuid not null,
    author_id      uuid not null,
    title          text not null,
    body           text,
    created_at     timestamptz not null default now(),
    primary key (_sync_scope_id, id),
    constraint posts_author_fkey foreign key (_sync_scope_id, author_id)
        references demo.users (_sync_scope_id, id) on delete cascade deferrable initially deferred
);
create index if not exists posts_author_idx on demo.posts (_sync_scope_id, author_id);

-- A tree: a table that refers to itself. Its key is text that people choose.
create table if not exists demo.categories (
    _sync_scope_id text not null,
    id             text not null,
    parent_id      text,
    name           text not null,
    primary key (_sync_scope_id, id),
    constraint categories_parent_fkey foreign key (_sync_scope_id, parent_id)
        references demo.categories (_sync_scope_id, id) on delete cascade deferrable initially deferred
);
create index if not exists categories_parent_idx on demo.categories (_sync_scope_id, parent_id);

create table if not exists demo.files (
    _sync_scope_id text not null,
    id             uuid not null,
    post_id        uuid not null,
    name           text not null,
    content        bytea not null,
    primary key (_sync_scope_id, id),
    constraint files_post_fkey foreign key (_sync_scope_id, post_id)
        references demo.posts (_sync_scope_id, id) on delete cascade deferrable initially deferred
);
create index if not exists files_post_idx on demo.files (_sync_scope_id, post_id);

-- A cycle: a team has a captain, who is one of its members.
create table if not exists demo.teams (
    _sync_scope_id text not null,
    id             uuid not null,
    name           text not null,
    captain_id     uuid,
    primary key (_sync_scope_id, id)
);

create table if not exists demo.members (
    _sync_scope_id text not null,
    id             uuid not null,
    team_id        uuid not null,
    name           text not null,
    primary key (_sync_scope_id, id),
    constraint members_team_fkey foreign key (_sync_scope_id, team_id)
        references demo.teams (_sync_scope_id, id) on delete cascade deferrable initially deferred
);
create index if not exists members_team_idx on demo.members (_sync_scope_id, team_id);

do $$
begin
    if not exists (select from pg_catalog.pg_constraint
                   where conrelid = 'demo.teams'::regclass and conname = 'teams_captain_fkey') then
        -- The column list matters: without it the action would also set the scope to null.
        alter table demo.teams add constraint teams_captain_fkey foreign key (_sync_scope_id, captain_id)
            references demo.members (_sync_scope_id, id) on delete set null (captain_id) deferrable initially deferred;
    end if;
end
$$;
create index if not exists teams_captain_idx on demo.teams (_sync_scope_id, captain_id);
