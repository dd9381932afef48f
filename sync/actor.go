package oversync

import "context"

// Actor is who performs an operation: a user, whose id is also the scope, and
// the source inside it that writes. SourceID is empty where no source is needed.
type Actor struct {
	UserID   string `json:"user_id"`
	SourceID string `json:"source_id,omitempty"`
}

// actorContextKey is a type of its own, so that no other package's key collides.
type actorContextKey struct{}

// ContextWithActor returns a context that carries the actor. Only code that has
// authenticated the user may call it: everything behind it trusts the actor.
func ContextWithActor(ctx context.Context, actor Actor) context.Context {
	return context.WithValue(ctx, actorContextKey{}, actor)
}

// ActorFromContext returns the actor that ContextWithActor stored. The second
// result is false if there is none.
func ActorFromContext(ctx context.Context) (Actor, bool) {
	actor, ok := ctx.Value(actorContextKey{}).(Actor)
	return actor, ok
}

// validate trims the actor as the transport does and refuses ids that cannot be
// stored.
func (a Actor) validate() (Actor, error) {
	a, err := a.validateUser()
	if err != nil {
		return a, err
	}
	a.SourceID, err = validateSource("source id", a.SourceID)
	return a, err
}

// validateUser is validate for operations that have no source.
func (a Actor) validateUser() (_ Actor, err error) {
	a.UserID, err = validateID("user id", a.UserID)
	return a, err
}
