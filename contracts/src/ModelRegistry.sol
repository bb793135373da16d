// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import { SafeCast } from "@openzeppelin/contracts/utils/math/SafeCast.sol";

import { IModelRegistry } from "./interfaces/IModelRegistry.sol";
import { IStakeVault } from "./interfaces/IStakeVault.sol";
import { ITaskCoordinator } from "./interfaces/ITaskCoordinator.sol";
import { Cid, ModelResult } from "./interfaces/Types.sol";

/// @title Append-only lineage of models. See IModelRegistry for what each function promises.
/// @dev A model's id follows from its task and round, and so does its parent's but for a genesis. What follows is not
/// stored: a version costs 6 slots of its own instead of 10.
contract ModelRegistry is IModelRegistry {
    using SafeCast for uint256;

    /// @dev A Model without what follows from the rest.
    struct Version {
        uint64 taskId;
        uint40 openedBlock;
        uint40 registeredBlock;
        uint40 registeredAt;
        uint16 round;
        uint16 parentRound;
        uint16 accepted;
        uint8 attempt;
        uint8 codec;
        uint8 floatCodec;
        address aggregator;
        bytes32 modelRoot;
        bytes32 updatesHash;
        bytes32 digest;
        bytes32 floatDigest;
    }

    /// @dev `versions` is 0 for a task that has no line. `latestRound` runs ahead of it when rounds turn void.
    struct TaskLine {
        address owner;
        bool restricted;
        uint16 versions;
        uint16 latestRound;
        bytes32 specHash;
        bytes32 parent;
        string licence;
        mapping(address account => bool) granted;
    }

    string public constant version = "chainfl-2";

    address public immutable coordinator;

    mapping(bytes32 modelId => Version) private _versions;
    mapping(uint256 taskId => TaskLine) private _lines;

    /// @dev `taskId << 16 | round` of every version, three in a slot.
    uint80[] private _order;

    modifier onlyOwner(uint256 taskId) {
        if (msg.sender != _lines[taskId].owner) revert NotOwner(taskId, msg.sender);
        _;
    }

    /// @notice Deployed last: checks that the coordinator and its vault name the contracts that they should.
    constructor(address coordinator_) {
        address vault = _ask(coordinator_, ITaskCoordinator.vault.selector);
        bool wired = _ask(coordinator_, ITaskCoordinator.registry.selector) == address(this)
            && _ask(vault, IStakeVault.coordinator.selector) == coordinator_;
        if (!wired) revert WrongWiring(coordinator_);
        coordinator = coordinator_;
    }

    /// @inheritdoc IModelRegistry
    function register(uint256 taskId) external returns (bytes32 modelId) {
        ModelResult memory result = ITaskCoordinator(coordinator).resultOf(taskId);

        // Check
        modelId = modelIdOf(taskId, result.round);
        if (exists(modelId)) revert AlreadyRegistered(modelId);

        // Effect
        TaskLine storage line = _lines[taskId];
        if (result.round == 0) _openLine(taskId, line);
        // INVARIANT: every version but a genesis has a parent in its own line.
        else if (line.versions == 0) revert UnknownModel(modelIdOf(taskId, 0));
        _append(modelId, taskId, line.latestRound, result);
        ++line.versions;
        line.latestRound = result.round;

        Model memory model = modelOf(modelId);
        emit ModelRegistered(modelId, taskId, model.parent, result.round, model);
    }

    /// @inheritdoc IModelRegistry
    function setRestricted(uint256 taskId, bool restricted) external onlyOwner(taskId) {
        _lines[taskId].restricted = restricted;
        emit AccessRestricted(taskId, restricted);
    }

    /// @inheritdoc IModelRegistry
    function grantAccess(uint256 taskId, address account) external onlyOwner(taskId) {
        _lines[taskId].granted[account] = true;
        emit AccessGranted(taskId, account);
    }

    /// @inheritdoc IModelRegistry
    function revokeAccess(uint256 taskId, address account) external onlyOwner(taskId) {
        _lines[taskId].granted[account] = false;
        emit AccessRevoked(taskId, account);
    }

    /// @inheritdoc IModelRegistry
    function transferOwnership(uint256 taskId, address to) external onlyOwner(taskId) {
        // INVARIANT: a line keeps an owner, or nobody could ever lift its restriction.
        if (to == address(0)) revert InvalidOwner(taskId, to);
        _lines[taskId].owner = to;
        emit OwnershipTransferred(taskId, msg.sender, to);
    }

    /// @inheritdoc IModelRegistry
    function hasAccess(bytes32 modelId, address account) external view returns (bool) {
        if (!exists(modelId)) revert UnknownModel(modelId);
        TaskLine storage line = _lines[_versions[modelId].taskId];
        return !line.restricted || account == line.owner || line.granted[account];
    }

    /// @inheritdoc IModelRegistry
    function lineOf(uint256 taskId) external view returns (Line memory) {
        TaskLine storage line = _lines[taskId];
        bool opened = line.versions > 0;
        return Line({
            owner: line.owner,
            restricted: line.restricted,
            versions: line.versions,
            specHash: line.specHash,
            genesis: opened ? modelIdOf(taskId, 0) : bytes32(0),
            latest: opened ? modelIdOf(taskId, line.latestRound) : bytes32(0),
            licence: line.licence
        });
    }

    /// @inheritdoc IModelRegistry
    function isGranted(uint256 taskId, address account) external view returns (bool) {
        return _lines[taskId].granted[account];
    }

    /// @inheritdoc IModelRegistry
    function numModels() external view returns (uint256) {
        return _order.length;
    }

    /// @inheritdoc IModelRegistry
    function models(uint256 start, uint256 count) external view returns (bytes32[] memory ids) {
        uint256 length = _order.length;
        uint256 left = start < length ? length - start : 0;
        ids = new bytes32[](count < left ? count : left);
        for (uint256 i; i < ids.length; ++i) {
            uint80 key = _order[start + i];
            // forge-lint: disable-next-line(unsafe-typecast)
            ids[i] = modelIdOf(key >> 16, uint16(key));
        }
    }

    /// @inheritdoc IModelRegistry
    function modelOf(bytes32 modelId) public view returns (Model memory) {
        if (!exists(modelId)) revert UnknownModel(modelId);
        Version memory v = _versions[modelId];
        return Model({
            parent: v.round == 0 ? _lines[v.taskId].parent : modelIdOf(v.taskId, v.parentRound),
            taskId: v.taskId,
            round: v.round,
            attempt: v.attempt,
            accepted: v.accepted,
            openedBlock: v.openedBlock,
            registeredBlock: v.registeredBlock,
            registeredAt: v.registeredAt,
            aggregator: v.aggregator,
            modelRoot: v.modelRoot,
            updatesHash: v.updatesHash,
            cid: Cid(v.digest, v.codec),
            floatCid: Cid(v.floatDigest, v.floatCodec)
        });
    }

    /// @inheritdoc IModelRegistry
    function exists(bytes32 modelId) public view returns (bool) {
        return _versions[modelId].registeredAt != 0;
    }

    /// @inheritdoc IModelRegistry
    function modelIdOf(uint256 taskId, uint16 round) public view returns (bytes32) {
        return keccak256(abi.encode(block.chainid, coordinator, taskId, round));
    }

    function _openLine(uint256 taskId, TaskLine storage line) private {
        (address requester, bytes32 specHash, bytes32 parent, string memory licence) =
            ITaskCoordinator(coordinator).originOf(taskId);
        if (parent != 0 && !exists(parent)) revert UnknownModel(parent);
        (line.owner, line.specHash, line.parent, line.licence) = (requester, specHash, parent, licence);
        emit LineOpened(taskId, requester, specHash, parent, licence);
    }

    function _append(bytes32 modelId, uint256 taskId, uint16 parentRound, ModelResult memory result) private {
        uint64 taskId64 = taskId.toUint64();
        _order.push(uint80(taskId64) << 16 | result.round);
        _versions[modelId] = Version({
            taskId: taskId64,
            openedBlock: result.openedBlock,
            registeredBlock: uint40(block.number),
            registeredAt: uint40(block.timestamp),
            round: result.round,
            parentRound: parentRound,
            accepted: result.accepted,
            attempt: result.attempt,
            codec: result.cid.codec,
            floatCodec: result.floatCid.codec,
            aggregator: result.aggregator,
            modelRoot: result.modelRoot,
            updatesHash: result.updatesHash,
            digest: result.cid.digest,
            floatDigest: result.floatCid.digest
        });
    }

    /// @dev The address that a contract answers with; 0 when it is no contract or its answer is no address.
    function _ask(address target, bytes4 getter) private view returns (address) {
        (bool ok, bytes memory answer) = target.staticcall(abi.encodePacked(getter));
        if (!ok || answer.length != 32) return address(0);
        uint256 word = abi.decode(answer, (uint256));
        // forge-lint: disable-next-line(unsafe-typecast)
        return word > type(uint160).max ? address(0) : address(uint160(word));
    }
}
